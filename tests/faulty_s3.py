"""An HTTP front that fails on purpose, between a test and the S3 API of `fixtures_s3`.

A test adds rules; every request is counted, whether it reached the store or not:

    faulty_s3.inject("503", share=0.2)
    faulty_s3.inject("cut", methods=("PUT",), key=r"part-.*\\.arrow", times=1)
    assert faulty_s3.count("PUT") <= 3
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

# What a store answers: status, and the code in the body.
_ANSWERS = {
    "500": (500, "InternalError"),
    "502": (502, "BadGateway"),
    "503": (503, "ServiceUnavailable"),
    "slowdown": (503, "SlowDown"),
    "409": (409, "ConditionalRequestConflict"),
    "403": (403, "AccessDenied"),
}
# Of connections: a write is applied and its answer cut; nothing is answered until the client gives
# up; a body ends early; the connection is closed before the store sees the request.
_BREAKS = frozenset({"cut", "stall", "truncate", "reset"})
_STALL_SECONDS = 30


@dataclass
class Rule:
    """Requests that fail, and how: a key of `_ANSWERS`, or one of `_BREAKS`."""

    fault: str
    methods: Sequence[str]
    key: re.Pattern[str]
    share: float
    times: float

    def matches(self, method: str, path: str) -> bool:
        return (not self.methods or method in self.methods) and bool(self.key.search(path))


class FaultyS3:
    """A proxy in a thread; `endpoint` is its URL, `requests` what it was asked."""

    def __init__(self, store: str, seed: int = 0) -> None:
        self._store = store.partition("://")[2]
        self._rules: list[Rule] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.requests: list[tuple[str, str]] = []  # method, path with query
        self.faults: list[str] = []
        handler = type("Handler", (_Handler,), {"front": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def inject(
        self,
        fault: str,
        *,
        methods: Sequence[str] = (),
        key: str = "",
        share: float = 1.0,
        times: float = float("inf"),
    ) -> None:
        """Fail a `share` of the requests of `methods` whose path contains `key` (a pattern).

        At most `times` of them; the first rule that strikes counts.
        """
        assert fault in _ANSWERS or fault in _BREAKS, fault
        self._rules.append(Rule(fault, methods, re.compile(key), share, times))

    def heal(self) -> None:
        """Forget the rules and the requests so far."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()
            self.faults.clear()

    def count(self, method: str = "", key: str = "") -> int:
        """Requests of `method` (all if empty) whose path contains `key` (a pattern)."""
        return sum(
            method in ("", asked) and re.search(key, path) is not None
            for asked, path in list(self.requests)
        )

    def stop(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault_of(self, method: str, path: str) -> str:
        with self._lock:
            self.requests.append((method, path))
            for rule in self._rules:
                if rule.times and rule.matches(method, path) and self._random.random() < rule.share:
                    rule.times -= 1
                    self.faults.append(rule.fault)
                    return rule.fault
        return ""

    def forward(self, request: _Handler, body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self._store, timeout=60)
        try:
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def stall(self) -> None:
        self._stopping.wait(_STALL_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: FaultyS3

    def _serve(self) -> None:
        body = self._body()
        fault = self.front.fault_of(self.command, self.path)
        if fault in _ANSWERS:
            self._refuse(*_ANSWERS[fault])
            return
        if fault == "stall":
            self.front.stall()
        if fault in {"stall", "reset"}:
            self.close_connection = True
            return
        answer, content = self.front.forward(self, body)
        if fault == "cut":
            self.close_connection = True
            return
        with suppress(ConnectionError):  # the client gave up
            self._answer(answer, content[: len(content) // 2] if fault == "truncate" else content)
        if fault == "truncate":
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            del self.headers["Expect"]  # `handle_expect_100` has answered it
        assert "Transfer-Encoding" not in self.headers
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: int, code: str) -> None:
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, answer: HTTPResponse, content: bytes) -> None:
        """Send `content` under the headers of `answer`: fewer bytes than those promise, maybe."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        if self.command != "HEAD" and answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def faulty_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A faultless front to begin with, and this process (and its children) configured to use it."""
    front = FaultyS3(s3.endpoint)
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()  # they keep the endpoint that they were made with
    monkeypatch.setenv("AWS_ENDPOINT_URL", front.endpoint)
    yield front
    clients.clear_instance_cache()
    front.stop()
