"""An S3 API over HTTP for the tests; `fault` makes it answer as a store in trouble does.

moto and boto3 are imported where they are used: a machine that runs `tests/gpu` has neither.
"""

from __future__ import annotations

import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from pipeline.store import retry

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "secret/of+the/tests+that/must+never/be+seen"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
# Gets a request and the app that answers it; returns None to let the request through.
Fault = Callable[[dict[str, Any], Wsgi], tuple[str, bytes] | None]


class Clock:
    """Time that passes only by sleeping, which takes none: for the retries of a test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Retry as always, on a clock of the test's own."""
    clock = Clock()
    policy = retry.Policy(clock=lambda: clock.now, sleep=clock.sleep)
    monkeypatch.setattr(retry, "policy", policy)
    monkeypatch.setattr(retry, "load", retry.Load())
    return clock


class S3Server:
    """An S3 API on localhost; `fault`, while set, may answer requests in its place."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []  # method, path
        self._app: Wsgi = DomainDispatcherApplication(create_backend_app)
        self._writes = threading.Lock()
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

    def _moto(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request; writes one after the other.

        moto checks the condition of a write and then stores it, so of two at once both can win.
        """
        if request["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._app(request, start)
        with self._writes:
            return self._app(request, start)

    def make_bucket(self) -> str:
        import boto3

        name = f"bucket-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return name

    def empty(self) -> None:
        """Forget every bucket: no test finds what another one has left."""
        reset = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        with urllib.request.urlopen(reset):
            pass

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
def s3(s3_process: S3Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, empty, with this process (and its children) configured to use it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_process.fault = None
    s3_process.empty()
    s3_process.requests.clear()
    yield s3_process
    s3_process.fault = None
