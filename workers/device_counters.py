"""What a device has done since its worker started: numbers in memory that processes share.

The process that watches the device counts its events, and the one that serves metrics reads them
(`workers.metrics`). So they outlive the device's process, and the one that watches it.
"""

from __future__ import annotations

import ctypes
import time
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any

from pipeline.stage_times import STAGES, Stage

if TYPE_CHECKING:
    from workers.usage import Usage

_STATES = ("idle", "loading", "computing")
STATES = (*_STATES, "stepped_back")

_NUMBERS = (
    "rows", "reused_rows", "deduplicated_rows", "tokens", "padding_tokens", "quarantined_rows",
    "shards_done", "shards_failed", "deaths", "step_backs", "spans", "queue_wait_seconds",
    "store_retries", "memory_bytes", "stepped_back_until",
)  # fmt: skip


class DeviceCounters(ctypes.Structure):
    """The counters of one device; one process at a time writes them."""

    rows: float
    reused_rows: float
    deduplicated_rows: float
    tokens: float
    padding_tokens: float
    quarantined_rows: float
    shards_done: float
    shards_failed: float
    deaths: float
    step_backs: float
    spans: float
    queue_wait_seconds: float
    store_retries: float
    memory_bytes: float
    stepped_back_until: float  # by the monotonic clock, which the processes of a machine share

    _fields_ = (
        *((name, ctypes.c_double) for name in _NUMBERS),
        ("_stage_seconds", ctypes.c_double * len(STAGES)),
        ("_state", ctypes.c_int),
    )

    @property
    def state(self) -> str:
        """One of STATES."""
        if not self._state and time.monotonic() < self.stepped_back_until:
            return STATES[-1]
        return _STATES[self._state]

    @property
    def stage_seconds(self) -> dict[Stage, float]:
        """Stage → seconds in which it was at work."""
        return dict(zip(STAGES, self._stage_seconds, strict=True))

    def begin_order(self) -> None:
        """The device was given an order."""
        self._state = _STATES.index("loading")

    def end_order(self) -> None:
        """The device has no order."""
        self._state = _STATES.index("idle")

    def count(self, kind: str, value: Any) -> None:
        """Count an event of the device's process, see `workers.device_main`."""
        if kind == "batch":
            self.rows += value[0]
            self.tokens += value[1]
        elif kind == "loaded":
            self._state = _STATES.index("computing")
        elif kind == "result" and value.error:
            self.shards_failed += 1
        elif kind == "result":
            self.shards_done += 1
            if value.computed:
                self.quarantined_rows += value.failed
                self.reused_rows += value.reused
                self.deduplicated_rows += value.deduplicated
        elif kind == "usage":
            self._use(value)

    def _use(self, usage: Usage) -> None:
        self.padding_tokens += usage.padding_tokens
        self.store_retries += usage.store_retries
        self.memory_bytes = usage.memory_bytes
        for index, stage in enumerate(STAGES):
            self._stage_seconds[index] += usage.stage_seconds[stage]

    def died(self) -> None:
        """The device's process ended, and with it the memory that it held."""
        self.deaths += 1
        self.memory_bytes = 0

    def waited(self, seconds: float) -> None:
        """A span waited so long in the queue."""
        self.spans += 1
        self.queue_wait_seconds += seconds

    def step_back(self, seconds: float) -> None:
        """The device steps back from a job for a while."""
        self.step_backs += 1
        self.stepped_back_until = time.monotonic() + seconds


Counters = ctypes.Array[DeviceCounters]


def new_counters(devices: int) -> Counters:
    """Counters of some devices, in memory that spawned processes share."""
    return RawArray(DeviceCounters, devices)
