"""The jobs that this machine knows, one small JSON file each; they survive a loss of Redis.

    <state_dir>/jobs/<job>.json    {"job", "output", "n", "created"}
    <state_dir>/locks/<output>     locked while a job runs in the foreground

No row depends on these files: a job can always be named by its output.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeGuard

from pipeline.output.run import Run, job_id
from pipeline.spec import digest
from pipeline.store.small_file import read_small, replace_small

_JOB_ID = re.compile(r"[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MAX_RUN = 10**9
_MAX_OUTPUT = 8192  # characters
_MAX_BYTES = 64 * 1024  # of a file; what a machine remembers of a job has about 200


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job by id, and where its output is."""

    job: str
    output: str
    n: int
    created: str  # UTC, ISO 8601

    @classmethod
    def of(cls, run: Run) -> JobRef:
        return cls(run.job, run.output, run.n, run.created)


def is_job_id(text: str) -> bool:
    """Whether a text has the form of a job id."""
    return _JOB_ID.fullmatch(text) is not None


def is_output(value: object) -> TypeGuard[str]:
    """Whether a value that others may have written can be where an output is."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_OUTPUT or "\0" in value:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)  # not text, but half of it


def parse_job_ref(text: str) -> JobRef | None:
    """A job as a file or Redis holds it; None for anything that is not exactly one.

    Both can be written by others: an id becomes the name of a file, and the rest is opened.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    job, output, n, created = (data.get(name) for name in ("job", "output", "n", "created"))
    if not (isinstance(job, str) and is_job_id(job)):
        return None
    if not is_output(output):
        return None
    if not (isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= _MAX_RUN):
        return None
    if not (isinstance(created, str) and _TIME.fullmatch(created)):
        return None
    if job != job_id(output, n):
        return None
    return JobRef(job, output, n, created)


@contextmanager
def output_lock(state_dir: Path, output: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of an output while this process runs jobs on it in the foreground.

    Running a shard twice is harmless, but two overlapping cron runs would both compute everything.
    The lock is released when the process ends, however it ends. A machine that cannot write its
    state, or has no locks, runs without the lock.

    Args:
        state_dir: of this machine.
        output: URI.
        on_wait: called with the holder's process id if another process holds the lock.
    """
    path = state_dir / "locks" / digest(output)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+"))
            _lock(file, on_wait)
        except OSError:
            pass
        yield


def _lock(file: IO[str], on_wait: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        on_wait(file.read().strip() or "unknown")
        fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


class KnownJobs:
    """Jobs by id. A file that cannot be read counts as missing: outputs hold the truth."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "jobs"

    def add(self, ref: JobRef) -> None:
        """Remember a job; where the state directory cannot be written, do nothing."""
        with suppress(OSError):
            replace_small(self._path(ref.job), json.dumps(asdict(ref)))

    def find(self, job: str) -> JobRef | None:
        """A job by id."""
        if not is_job_id(job):
            return None
        text = read_small(self._path(job), _MAX_BYTES)
        ref = None if text is None else parse_job_ref(text)
        return ref if ref is not None and ref.job == job else None

    def all(self) -> list[JobRef]:
        """Every known job, newest first."""
        ids = sorted(path.stem for path in self._folder.glob("*.json"))
        refs = [ref for job in ids if (ref := self.find(job))]
        return sorted(refs, key=lambda ref: ref.created, reverse=True)

    def forget(self, job: str) -> None:
        """Remove a job from the known ones; its output is not touched."""
        with suppress(OSError):
            self._path(job).unlink()

    def _path(self, job: str) -> Path:
        return self._folder / f"{job}.json"
