"""A web server of a test's own on 127.0.0.1, which remembers what was posted to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Post:
    """One request."""

    path: str
    body: dict[str, Any]

    @property
    def event(self) -> Any:
        return self.body["event"]


class WebServer(ThreadingHTTPServer):
    """Answers 200, or what `answers` holds first; `on_post` is called before the answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[Post] = []
        self.answers: list[int] = []
        self.on_post: Callable[[Post], None] = lambda post: None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def events(self) -> list[Any]:
        return [post.event for post in self.posts]


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        post = Post(self.path, json.loads(self.rfile.read(length)))
        self.server.posts.append(post)
        self.server.on_post(post)
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Location", f"http://{self.server.host}/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server that listens."""
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
