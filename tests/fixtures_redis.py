"""A real Redis for the tests: one server per session, or a test's own servers to kill and restart.

`redis_url` is the shared server, emptied before each test. `redis_server(...)` starts one that the
test may kill, freeze and restart. Without `redis-server` on PATH these tests skip, and fail where
CI is set: a missing service must not hide there. redis is imported where it is used: a machine that
runs `tests/gpu` does not have it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import redis

START_DEADLINE_S = 60.0
POLL_S = 0.02


class RedisServer:
    """One redis-server process on a port of 127.0.0.1, its data in a directory of its own."""

    def __init__(self, directory: Path, *options: str, aof: bool = False) -> None:
        self.directory = directory
        self.options = (
            *("--appendonly", "yes" if aof else "no", "--save", "", "--logfile", "redis.log"),
            *options,
        )
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        import redis

        return redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=1)

    def start(self) -> None:
        """Start on a free port, later on the same one again; wait until it answers."""
        port = self.port or _free_port()
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *self.options],
            cwd=self.directory,
        )
        self.port = port
        self._wait_until_it_answers()

    def kill(self) -> None:
        """SIGKILL: what was not yet on disk is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: an append-only file is flushed first."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill and start on the same port: without AOF everything queued is gone."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open without an answer, as over a half-open link."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this Redis is not running")
        return self._process

    def _end(self, signum: int) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(START_DEADLINE_S)
            self._process = None

    def _wait_until_it_answers(self) -> None:
        import redis

        deadline = time.monotonic() + START_DEADLINE_S
        client = self.client()
        while self._running().poll() is None and time.monotonic() < deadline:
            try:
                # INFO, not PING: the process that answers must be ours, not another on this port.
                if client.info("server")["process_id"] == self._running().pid:
                    return
            except redis.RedisError:  # not listening yet, or still loading its append-only file
                pass
            time.sleep(POLL_S)
        log = (self.directory / "redis.log").read_text(errors="replace")
        self.kill()
        raise RuntimeError(f"redis-server did not start on port {self.port}:\n{log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_redis() -> None:
    """Skip without redis-server; fail where CI is set."""
    if shutil.which("redis-server"):
        return
    missing = "redis-server is not on PATH (Debian: apt-get install redis-server)"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Start a server of the test's own: `redis_server("--maxmemory", "10mb", aof=True)`."""
    require_redis()
    started: list[RedisServer] = []

    def start(*options: str, aof: bool = False) -> RedisServer:
        server = RedisServer(tmp_path_factory.mktemp("redis"), *options, aof=aof)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_shared_redis: RedisServer) -> str:
    """URL of the session's server, empty."""
    _shared_redis.client().flushall()
    return _shared_redis.url
