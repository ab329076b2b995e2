"""Fixtures that every test may use: stores of each kind, an S3 API over HTTP among them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from hypothesis import settings
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

pytest_plugins = ["fixtures_redis"]  # a file of its own beside this one

# A loaded machine is no reason to fail: how long an example takes says nothing here.
settings.register_profile("bei-jobs", deadline=None)
settings.load_profile("bei-jobs")

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "secret/of+the/tests+that/must+never/be+seen"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
#: Gets a request and the app that answers it; returns None to let the request through.
Fault = Callable[[dict[str, Any], Wsgi], tuple[str, bytes] | None]


class S3Server:
    """An S3 API on localhost; `fault`, while set, may answer requests in its place."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []  # method, path
        self._moto: Wsgi = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler
        )
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((request["REQUEST_METHOD"], request["PATH_INFO"]))
        answer = self.fault(request, self._moto) if self.fault else None
        if answer is None:
            return self._moto(request, start)
        status, body = answer
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def make_bucket(self) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, with this process (and its children) configured to use it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_process.fault = None
    s3_process.requests.clear()
    yield s3_process
    s3_process.fault = None


@pytest.fixture(params=["local", "memory", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The root of an empty store; a test that takes it runs once over every backend."""
    name = f"out-{uuid.uuid4().hex[:12]}"
    if request.param == "local":
        yield str(tmp_path / name)
    elif request.param == "memory":
        yield f"memory://{name}"
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{name}"):
            memory.rm(f"/{name}", recursive=True)
    else:
        yield f"s3://{request.getfixturevalue('s3').make_bucket()}/{name}"
