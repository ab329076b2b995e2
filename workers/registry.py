"""The jobs this machine has seen, one small JSON file each: what survives a Redis that forgets.

    <state_dir>/jobs/<job>.json    {"job", "output", "n", "created"}

Losing them loses no row: a job can always be named by its output.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.output import Run


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


class Registry:
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
