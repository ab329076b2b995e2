"""A fleet on a Redis of its own, typed at through the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commandline import Bei, forget_the_user, typist
from fixtures_redis import RedisServer
from fleet import Fleet


@pytest.fixture(scope="session")
def checkpoint_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_machine(tmp_path: Path, checkpoint_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No option and no memory of another test or of the user."""
    torch.set_num_threads(1)
    forget_the_user(monkeypatch, tmp_path / "state", checkpoint_cache)


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
