"""A machine of a test's own: no option and no memory of another test or of the user."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commandline import forget_the_user


@pytest.fixture(scope="session")
def checkpoint_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Threads that wait for each other cost a tiny model more than they give."""
    torch.set_num_threads(1)


@pytest.fixture
def own_machine(tmp_path: Path, checkpoint_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    forget_the_user(monkeypatch, tmp_path / "state", checkpoint_cache)
