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
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from pipeline.output.run import Run
    from workers.usage import Usage

_STATES = ("idle", "loading", "computing")
STATES = (*_STATES, "stepped_back")

_NUMBERS = (
    "rows", "reused_rows", "deduplicated_rows", "tokens", "padding_tokens", "quarantined_rows",
    "shards_done", "shards_failed", "deaths", "step_backs", "spans", "queue_wait_seconds",
    "store_retries", "memory_bytes", "stepped_back_until", "batches", "token_budget",
)  # fmt: skip
# Room for the texts that a device shows; longer ones lose their end.
_TEXTS = {"_job": 16, "_model": 96, "_error": 400}


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
    batches: float
    token_budget: float  # of the job at hand; 0 until its model is loaded

    _fields_ = (
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_char * size) for name, size in _TEXTS.items()),
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

    @property
    def job(self) -> str:
        """The job that the device computes, or computed last; "" for none."""
        return _text(self._job)

    @property
    def model(self) -> str:
        """The model of that job."""
        return _text(self._model)

    @property
    def error(self) -> str:
        """What last went wrong on the device with that job; "" for nothing."""
        return _text(self._error)

    def take_up(self, run: Run) -> None:
        """The device turns to the job of a run."""
        if self.job != run.job:
            self._error = b""
        self._job = _bytes("_job", run.job)
        self._model = _bytes("_model", redact(run.spec.model.name))
        self.token_budget = run.spec.token_budget or 0

    def went_wrong(self, error: str) -> None:
        """Something went wrong on the device."""
        self._error = _bytes("_error", error)

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
            self.batches += value[1] > 0  # rows without tokens are copied
        elif kind == "loaded":
            self._state = _STATES.index("computing")
            if not self.token_budget and "token-budget" in value:
                self.token_budget = value["token-budget"].value
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


def _text(value: bytes) -> str:
    # Another process may be writing it: half a character is no error.
    return value.decode(errors="replace")


def _bytes(name: str, text: str) -> bytes:
    """As much of a text as there is room for, without half a character."""
    return text.encode()[: _TEXTS[name]].decode(errors="ignore").encode()


def new_counters(devices: int) -> Counters:
    """Counters of some devices, in memory that spawned processes share."""
    return RawArray(DeviceCounters, devices)
