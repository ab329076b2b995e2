"""The jobs this machine has seen, one small JSON file each: what survives a Redis that forgets.

    <state_dir>/jobs/<job>.json    {"job", "output", "n", "created"}
    <state_dir>/locks/<output>     held while a job runs here in the foreground

Losing them loses no row: a job can always be named by its output.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pipeline.output.run import Run
from pipeline.spec import digest


@dataclass(frozen=True, slots=True)
class JobRef:
    """Where a job's truth lies."""

    job: str
    output: str
    n: int
    created: str  # UTC, ISO 8601

    @classmethod
    def of(cls, run: Run) -> JobRef:
        return cls(run.job, run.output, run.n, run.created)


@contextmanager
def output_lock(state_dir: Path, output: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold this machine's right to run jobs on an output in the foreground.

    Running a shard twice is harmless, but two overlapping fires of a schedule would both compute
    everything. The lock goes with the process, however it ends. A machine that cannot write its
    state, or has no locks, goes on without.

    Args:
        state_dir: of this machine.
        output: URI.
        on_wait: told the process id of the holder, where there is one.
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
    """Jobs by id. A file that cannot be read is as good as none: outputs hold the truth."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "jobs"

    def add(self, ref: JobRef) -> None:
        """Remember a job; a machine that cannot write its state runs jobs all the same."""
        path = self._folder / f"{ref.job}.json"
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(asdict(ref)))
            temporary.replace(path)

    def find(self, job: str) -> JobRef | None:
        """A job by id."""
        with suppress(OSError, ValueError, TypeError):
            return JobRef(**json.loads((self._folder / f"{job}.json").read_text()))
        return None

    def all(self) -> list[JobRef]:
        """Every known job, newest first."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        found = [ref for name in names if (ref := self.find(name))]
        return sorted(found, key=lambda ref: ref.created, reverse=True)

    def forget(self, job: str) -> None:
        """Drop a job from this machine's memory; its output stays as it is."""
        with suppress(OSError):
            (self._folder / f"{job}.json").unlink()
