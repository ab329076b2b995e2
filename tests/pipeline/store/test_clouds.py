"""What Azure and GCS answer, and what of it is tried again, named or left out of a listing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest
from fixtures_emulators import connection_string, forget_clients
from fixtures_s3 import Clock

from pipeline.errors import AccessDenied, NotFound, StorageError
from pipeline.input.discovery import discover
from pipeline.store import gcs as gcs_store
from pipeline.store.directory import Directory

Answer = tuple[int, bytes, dict[str, str]]


class Scripted:
    """A store that gives the answers of a script, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                store.requests.append(f"{self.command} {self.path}")
                more = len(store.answers) > 1
                status, body, headers = store.answers.pop(0) if more else store.answers[0]
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def scripted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """The store that the environment names for az:// and gs://."""
    for kind in ("adlfs", "gcsfs"):
        pytest.importorskip(kind)
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    store = Scripted()
    address = connection_string(f"{store.url}/devstoreaccount1")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/no/such/directory")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    forget_clients("az", "gs")
    yield store
    forget_clients("az", "gs")
    store.server.shutdown()
    store.server.server_close()


def azure_error(status: int, code: str) -> Answer:
    message = f"Words about {code}.\nRequestId:1\nTime:2026-11-28"
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, body.encode(), {"x-ms-error-code": code, "Content-Type": "application/xml"}


def gcs_error(status: int, message: str) -> Answer:
    body = json.dumps({"error": {"code": status, "message": message}})
    return status, body.encode(), {"Content-Type": "application/json"}


DATA: Answer = (200, b"data", {"Content-Range": "bytes 0-3/4", "ETag": '"1"'})
BUSY = {
    "az": [azure_error(503, "ServerBusy"), azure_error(500, "OperationTimedOut")],
    "gs": [gcs_error(503, "backendError"), gcs_error(429, "rateLimitExceeded")],
}


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_a_busy_store_is_asked_again_by_one_layer(
    scripted: Scripted, clock: Clock, scheme: str
) -> None:
    scripted.answers = [*BUSY[scheme], DATA]
    assert Directory(f"{scheme}://data/out").read("x") == b"data"
    assert len(scripted.requests) == 3
    scripted.answers = BUSY[scheme][:1]
    scripted.requests.clear()
    with pytest.raises(StorageError, match=r"tried \d+ times in \d\d s") as failed:
        Directory(f"{scheme}://data/out").read("x")
    # A client that tries again by itself would make more requests than we count tries.
    assert f"tried {len(scripted.requests)} times" in failed.value.message
    assert clock.now < 70


REFUSALS = [
    ("az", azure_error(403, "AuthenticationFailed"), "AuthenticationFailed"),
    ("az", azure_error(403, "AuthorizationPermissionMismatch"), "AuthorizationPermissionMismatch"),
    ("az", azure_error(401, "NoAuthenticationInformation"), "NoAuthenticationInformation"),
    ("az", azure_error(409, "PublicAccessNotPermitted"), "PublicAccessNotPermitted"),
    ("gs", gcs_error(403, "x@y does not have storage.objects.get access"), "403"),
    ("gs", gcs_error(401, "Anonymous caller does not have access"), "401"),
    ("gs", gcs_error(401, "Invalid Credentials"), "401"),
]
ASK: dict[str, Callable[[Directory], Any]] = {
    "read": lambda directory: directory.read("x"),
    "create": lambda directory: directory.create("x", b"data"),
    "list": lambda directory: list(directory.list()),
    "exists": lambda directory: directory.exists("x"),
}


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize(("scheme", "answer", "code"), REFUSALS)
def test_a_refusal_is_named_at_once_with_the_credentials_to_check(
    scripted: Scripted, clock: Clock, scheme: str, answer: Answer, code: str, ask: str
) -> None:
    scripted.answers = [answer]
    with pytest.raises(AccessDenied) as refused:
        ASK[ask](Directory(f"{scheme}://data/out"))
    assert f"{scheme}://data/out/{'' if ask == 'list' else 'x'}: access denied ({code})" == (
        refused.value.message
    )
    variable = {"az": "AZURE_STORAGE_SAS_TOKEN", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[scheme]
    assert variable in (refused.value.hint or "")
    assert "AWS" not in (refused.value.hint or "")
    assert clock.slept == []


@pytest.mark.parametrize(
    ("scheme", "answer", "shown"),
    [
        ("az", azure_error(400, "InvalidInput"), "InvalidInput: Words about InvalidInput. Req"),
        ("gs", gcs_error(400, "the bucket's name is invalid"), "400: Bad Request: "),
        ("gs", gcs_error(400, "Bucket is a requester pays bucket"), "requester pays"),
    ],
)
def test_an_answer_that_nobody_foresaw_is_an_error_of_the_store(
    scripted: Scripted, scheme: str, answer: Answer, shown: str
) -> None:
    scripted.answers = [answer]
    with pytest.raises(StorageError) as failed:
        Directory(f"{scheme}://data/out").read("x")
    assert shown in failed.value.message
    assert "<Error>" not in failed.value.message
    assert len(scripted.requests) == 1


@pytest.fixture(params=["azure", "gcs"])
def cloud(request: pytest.FixtureRequest) -> str:
    uri: str = request.getfixturevalue(request.param)
    return uri


def test_a_container_that_does_not_exist_is_named(cloud: str) -> None:
    scheme = cloud.partition("://")[0]
    word = {"az": "container", "gs": "bucket"}[scheme]
    absent = Directory(f"{scheme}://not-there/out")
    for ask in ("create", "list"):
        with pytest.raises(NotFound, match=f"its {word} does not exist"):
            ASK[ask](absent)
    assert not absent.exists("x")


def leave_markers(uri: str) -> None:
    """Directories as Hadoop, Spark, web consoles and a data lake leave them."""
    fs, path = fsspec.url_to_fs(uri)
    fs.pipe_file(f"{path}/t.csv_$folder$", b"")
    fs.pipe_file(f"{path}/t.csv", b"")
    if uri.startswith("gs://"):
        fs.pipe_file(f"{path}/sub/", b"")
        fs.pipe_file(f"{path}/d.csv/", b"")
        return
    for name in ("sub", "lake.csv"):
        container, _, key = f"{path}/{name}".partition("/")
        blob = fs.service_client.get_blob_client(container, key)
        fsspec.asyn.sync(fs.loop, blob.upload_blob, b"", metadata={"hdi_isfolder": "true"})


def test_what_stands_for_a_directory_is_no_file(cloud: str) -> None:
    for name in ("a.csv", "t.csv/part-0.csv", "sub/b.csv"):
        Directory(f"{cloud}/in").put(name, b"id,text\n1,one\n")
    leave_markers(f"{cloud}/in")
    expected = ["a.csv", "sub/b.csv", "t.csv/part-0.csv"]
    listed = [info.name for info in Directory(f"{cloud}/in").list(recursive=True)]
    assert [name for name in listed if name != "t.csv"] == expected
    assert [file.path for file in discover([f"{cloud}/in"])] == expected
    assert [file.path for file in discover([f"{cloud}/in/**"])] == expected
    flat = [file.path for file in discover([f"{cloud}/in/*.csv"])]
    assert flat == ["a.csv", "t.csv/part-0.csv"]
    assert [file.path for file in discover([f"{cloud}/in/sub"])] == ["b.csv"]


def test_a_listing_of_gcs_takes_many_pages(gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(f"{gcs}/out")
    names = [f"part-{i:05d}" for i in range(11)]
    for name in [*names, "sub/part-0"]:
        directory.put(name, b"x")
    monkeypatch.setattr(gcs_store, "_PAGE_OBJECTS", 4)
    assert [info.name for info in directory.list()] == names
    assert [info.name for info in directory.list(after=names[4])] == names[5:]
    assert [info.name for info in directory.list("part-0000")] == names[:10]
