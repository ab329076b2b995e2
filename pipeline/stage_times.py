"""How long each stage of the main path was at work in this process, since it started.

A stage that two threads are in counts once, so a second of the clock adds at most a second: the
stage whose share is near 1 is the one that the others wait for. `wait` is the device without work:
it waits for tokenized rows, while batches that it was given before may still count as computed.
Counted per block, batch and commit, never per row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

Item = TypeVar("Item")
Stage = Literal["read", "tokenize", "wait", "compute", "commit"]

STAGES: tuple[Stage, ...] = ("read", "tokenize", "wait", "compute", "commit")

_END = object()


class StageTimes:
    """The seconds of every stage; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._inside: dict[Stage, int] = dict.fromkeys(STAGES, 0)
        self._since: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)

    def begin(self, stage: Stage) -> None:
        """Something enters the stage."""
        with self._lock:
            if not self._inside[stage]:
                self._since[stage] = time.monotonic()
            self._inside[stage] += 1

    def end(self, stage: Stage) -> None:
        """Something leaves the stage."""
        with self._lock:
            if self._inside[stage]:
                self._inside[stage] -= 1
                if not self._inside[stage]:
                    self._seconds[stage] += time.monotonic() - self._since[stage]

    @contextmanager
    def during(self, stage: Stage) -> Iterator[None]:
        """A context that is the stage."""
        self.begin(stage)
        try:
            yield
        finally:
            self.end(stage)

    def each(self, stage: Stage, items: Iterator[Item]) -> Iterator[Item]:
        """`items`, of which each is made in the stage."""
        while True:
            with self.during(stage):
                item = next(items, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]
            del item  # not held while the next one is made

    def abandon(self) -> None:
        """Nothing is in a stage any more, such as after an error."""
        with self._lock:
            self._inside = dict.fromkeys(STAGES, 0)

    def seconds(self) -> dict[Stage, float]:
        """Stage → seconds so far, without what is under way."""
        with self._lock:
            return dict(self._seconds)


class Lap:
    """What was spent since the last look: seconds of the stages, and a count beside them."""

    def __init__(self, times: StageTimes, count: Callable[[], int]) -> None:
        self._times, self._count = times, count
        self._seconds, self._counted = times.seconds(), count()

    def take(self) -> tuple[dict[Stage, float], int]:
        """Stage → seconds, and the count, since the last call or the start."""
        seconds, counted = self._times.seconds(), self._count()
        spent = {stage: seconds[stage] - self._seconds[stage] for stage in STAGES}
        added, self._seconds, self._counted = counted - self._counted, seconds, counted
        return spent, added


stage_times = StageTimes()
