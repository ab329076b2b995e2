"""Stop a process of bei-jobs at a known place, so that a fault hits it exactly there."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet import until

SABOTAGE = Path(__file__).parent / "sabotage"

#: Where a worker can be stopped.
POINTS = ("before-first-batch", "mid-shard", "before-commit", "after-commit")


def sabotaged(**variables: str) -> dict[str, str]:
    """The environment of a process that does to itself what `variables` say."""
    return {"PYTHONPATH": str(SABOTAGE), **variables}


@dataclass(frozen=True)
class PausePoint:
    """The first process that reaches `point` waits there until it is released."""

    point: str
    folder: Path

    @classmethod
    def make(cls, root: Path, point: str) -> PausePoint:
        folder = root / f"pause-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return cls(point, folder)

    @property
    def environment(self) -> dict[str, str]:
        return sabotaged(CHAOS_POINT=self.point, CHAOS_DIR=str(self.folder))

    def reached(self) -> int:
        """Wait until a process is there; its id."""
        file = self.folder / "reached"
        until(file.exists, f"a process to reach {self.point}")
        return int(file.read_text())

    def release_during(self, fault_s: float = 0.3) -> None:
        """Let it go on once a fault, which the caller starts now, has lasted `fault_s`."""
        timer = threading.Timer(fault_s, self.release)
        timer.daemon = True
        timer.start()

    def release(self) -> None:
        (self.folder / "released").touch()
