"""A fleet and its Redis, with nothing of the user's machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import Bei, typist
from fixtures_redis import RedisServer
from fleet import Fleet
from tls_redis import TlsRedis, make_certificates


@pytest.fixture
def tls_redis(redis_server: Callable[..., RedisServer], tmp_path: Path) -> TlsRedis:
    folder = tmp_path / "tls"
    folder.mkdir()
    authority, certificate, key = make_certificates(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority)
    server = redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *map(str, files))
    return TlsRedis(server, port, authority)


@pytest.fixture
def checkpoint_cache(tmp_path: Path) -> Path:
    """Of each test alone."""
    return tmp_path / "cache"


@pytest.fixture
def bei(own_machine: None, capsys: pytest.CaptureFixture[str]) -> Bei:
    """Type `bei-jobs WORDS…`."""
    return typist(capsys)


@pytest.fixture
def start_fleet(bei: Bei, tmp_path: Path) -> Iterator[Callable[[str], Fleet]]:
    """A fleet on the Redis of a URL."""
    fleets: list[Fleet] = []

    def start(url: str) -> Fleet:
        fleets.append(Fleet(url, tmp_path / f"fleet-{len(fleets)}", bei))
        return fleets[-1]

    yield start
    for fleet in fleets:
        fleet.close()
