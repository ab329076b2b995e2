"""What a device's process uses besides its rows: time in each stage, padding, retries, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.stage_times import STAGES, Stage, stage_times
from pipeline.store.retry import load

if TYPE_CHECKING:
    from pipeline.encoder.engine import Engine

# A process says so at least this often while it computes.
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used since it last said so; `memory_bytes` is what it holds now."""

    stage_seconds: dict[Stage, float]
    padding_tokens: int
    store_retries: int
    memory_bytes: int


class UsageMeter:
    """The usage of this process since the last reading."""

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._repeated = 0
        self._read = float("-inf")

    def due(self) -> bool:
        """Whether the last reading is some seconds old."""
        return time.monotonic() - self._read > _SECONDS

    def read(self, engine: Engine) -> Usage:
        """What was used since the last reading.

        Args:
            engine: of the job that is computed.
        """
        self._read = time.monotonic()
        before, self._seconds = self._seconds, stage_times.seconds()
        repeated, self._repeated = load.repeated - self._repeated, load.repeated
        used = {stage: self._seconds[stage] - before[stage] for stage in STAGES}
        return Usage(used, engine.take_padding(), repeated, engine.lane.memory_in_use())
