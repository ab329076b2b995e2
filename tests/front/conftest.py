"""bei_jobs as a program uses it, on a machine of its own and with a tiny checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import forget_the_user
from corpora import TINY

import bei_jobs
from workers.known_jobs import output_lock


@pytest.fixture(autouse=True)
def own_machine(own_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test here; one thread a process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The options of a job that takes no time."""
    return {"model": TINY, "device": "cpu"}


@pytest.fixture
def submit(tiny: dict[str, Any]) -> Callable[..., bei_jobs.Job]:
    """`bei_jobs.submit` with the tiny checkpoint."""
    return partial(bei_jobs.submit, **tiny)


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Write a corpus of rows "0", "1", …; those in `null` have no text."""

    return partial(_write_corpus, tmp_path)


def _write_corpus(
    folder: Path, rows: int = 20, name: str = "corpus", null: tuple[int, ...] = ()
) -> Path:
    text = [None if row in null else f"number {row} " * (row % 9 + 1) for row in range(rows)]
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({"id": [str(row) for row in range(rows)], "text": text}), path)
    return path


@pytest.fixture
def corpus(make_corpus: Callable[..., Path]) -> Path:
    """Twenty rows."""
    return make_corpus()


@pytest.fixture(scope="session")
def _shared_job(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_cache: Path
) -> tuple[Path, bei_jobs.Job]:
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        forget_the_user(patch, folder / "state", checkpoint_cache)
        patch.setenv("OMP_NUM_THREADS", "1")
        return folder, bei_jobs.submit(_write_corpus(folder), model=TINY, device="cpu")


@pytest.fixture
def shared_job(
    _shared_job: tuple[Path, bei_jobs.Job], own_machine: None, monkeypatch: pytest.MonkeyPatch
) -> bei_jobs.Job:
    """A job of the twenty rows of corpus.parquet beside its output, which is not to be touched."""
    folder, job = _shared_job
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(folder / "state"))
    return job


@pytest.fixture
def busy(tmp_path: Path) -> Callable[[Path], AbstractContextManager[None]]:
    """Hold an output as another job of this machine would: a job on it waits once it is planned."""

    @contextmanager
    def hold(output: Path) -> Iterator[None]:
        with output_lock(tmp_path / "state", str(output), lambda holder: None):
            yield

    return hold


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a program that uses bei_jobs; the caller waits for it."""

    def start(code: str, *arguments: object, alone: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            start_new_session=alone,
            # A suite that runs in the background of a shell ignores SIGINT, and so would this.
            preexec_fn=_heed_interrupts,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def job_processes() -> Callable[[], list[psutil.Process]]:
    """The processes of this test's jobs, wherever they hang in the tree of processes."""

    def find() -> list[psutil.Process]:
        mine = os.environ["BEI_JOBS_STATE_DIR"]
        return [process for process in psutil.process_iter() if _is_job(process, mine)]

    return find


def _is_job(process: psutil.Process, state_dir: str) -> bool:
    try:
        return (
            "bei_jobs" in " ".join(process.cmdline())
            and "submit" in process.cmdline()
            and process.environ().get("BEI_JOBS_STATE_DIR") == state_dir
        )
    except psutil.Error:
        return False
