"""A fleet on a Redis of its own, typed at through the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import Bei, typist
from fixtures_redis import RedisServer
from fleet import Fleet


@pytest.fixture
def bei(own_machine: None, capsys: pytest.CaptureFixture[str]) -> Bei:
    """Type `bei-jobs WORDS…`."""
    return typist(capsys)


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    """A Redis without persistence that the test may kill."""
    return redis_server()


@pytest.fixture
def fleet(server: RedisServer, tmp_path: Path, bei: Bei) -> Iterator[Fleet]:
    fleet = Fleet(server.url, tmp_path / "fleet", bei)
    yield fleet
    fleet.close()
