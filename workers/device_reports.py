"""What each device of a process is doing, and how fast: what `bei-jobs watch` shows of it.

A worker publishes its reports in Redis, a run in the foreground in its lease. The rates are taken
here, where the counters are: whoever starts to watch sees right ones at once.

    bei:devices:<host>:<pid>   string   list of DeviceReport as JSON; expires with the worker
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from workers.device_counters import STATES, Counters, DeviceCounters

# How often reports are made.
REPORT_SECONDS = 2.0
# Rates are taken over this much of the recent past.
_RATE_SECONDS = 30.0
# The time left follows from more of it, ten minutes at most: the rows of a block come longest
# first, so that rows per second rise until the next block begins.
_WINDOW_SECONDS = 10.0
_MAX_WINDOWS = 60
# For the same reason neighbouring windows are alike: so many of them count as one observation.
_ALIKE = 3
_TEXT_MAX_CHARS = 400


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What a device does."""

    device: str
    state: str  # of `workers.device_counters`
    job: str = ""  # that it computes, or computed last; "" for none
    model: str = ""  # of that job
    rows: int = 0  # of that job, since the device turned to it
    tokens: int = 0
    rows_per_second: float = 0.0  # over the last half minute
    tokens_per_second: float = 0.0
    batch_fill: float | None = None  # share of the token budget that batches used; None: no batch
    mean: float | None = None  # rows per second over some minutes; None: too early
    spread: float | None = None  # two standard errors of it
    error: str = ""  # what last went wrong on it with that job

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """Rebuild one that others may have written; None where it is none.

        Fields that a later version added are ignored.
        """
        if not isinstance(data, dict):
            return None
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        numbers = [known.get(name, 0) for name in _NUMBERS]
        numbers += [known[name] for name in _OPTIONAL if known.get(name) is not None]
        sound = (
            known.keys() >= {"device", "state"}
            and all(_is_text(known.get(name, "")) for name in _TEXTS)
            and all(isinstance(n, int | float) and 0 <= n < _TOO_LARGE for n in numbers)
            and known["state"] in STATES
        )
        return cls(**known) if sound else None


_TEXTS = ("device", "state", "job", "model", "error")
_NUMBERS = ("rows", "tokens", "rows_per_second", "tokens_per_second")
_OPTIONAL = ("batch_fill", "mean", "spread")
_TOO_LARGE = 1e18


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT_MAX_CHARS


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    rows: float
    tokens: float
    batches: float


class _Meter:
    """Samples of one device's counters while it computes one job."""

    def __init__(self, job: str, sample: _Sample) -> None:
        self.job = job
        self._first = sample
        self._samples = deque([sample])
        self._windows: deque[float] = deque(maxlen=_MAX_WINDOWS)  # rows per second of each
        self._window = sample  # at the start of the one under way

    def begun(self, sample: _Sample) -> bool:
        """Whether a row of the job has come back from the device."""
        return sample.rows > self._first.rows

    def add(self, sample: _Sample) -> None:
        """Add what the counters say now."""
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[1].at >= _RATE_SECONDS:
            self._samples.popleft()
        if (seconds := sample.at - self._window.at) >= _WINDOW_SECONDS:
            self._windows.append((sample.rows - self._window.rows) / seconds)
            self._window = sample

    def report(self, device: str, counters: DeviceCounters) -> DeviceReport:
        """The rates over the last half minute."""
        begin, end = self._samples[0], self._samples[-1]
        seconds = max(end.at - begin.at, 1e-9)
        batches = (end.batches - begin.batches) * counters.token_budget
        tokens = end.tokens - begin.tokens
        return DeviceReport(
            device,
            counters.state,
            self.job,
            counters.model,
            int(end.rows - self._first.rows),
            int(end.tokens - self._first.tokens),
            round((end.rows - begin.rows) / seconds, 3),
            round(tokens / seconds, 3),
            round(min(tokens / batches, 1.0), 3) if batches else None,
            *self._mean_and_spread(),
            counters.error[:_TEXT_MAX_CHARS],
        )

    def _mean_and_spread(self) -> tuple[float | None, float | None]:
        if len(self._windows) < _ALIKE:
            return None, None
        observations = len(self._windows) / _ALIKE
        spread = 2 * statistics.stdev(self._windows) / observations**0.5
        return round(statistics.fmean(self._windows), 3), round(spread, 3)


class Reporter:
    """Makes the reports of a process's devices.

    Args:
        devices: their names.
        counters: of each device.
        clock: seconds.
    """

    def __init__(
        self,
        devices: Sequence[str],
        counters: Counters | Sequence[DeviceCounters],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = list(zip(devices, counters, strict=True))
        self._clock = clock
        self._meters: list[_Meter | None] = [None] * len(self._devices)

    def reports(self) -> list[DeviceReport]:
        """One for each device. Rates are those between calls, which are REPORT_SECONDS apart."""
        return [self._report(number) for number in range(len(self._devices))]

    def to_json(self) -> list[dict[str, Any]]:
        """The reports, as a lease holds them."""
        return [asdict(report) for report in self.reports()]

    def _report(self, number: int) -> DeviceReport:
        device, counters = self._devices[number]
        job, meter = counters.job, self._meters[number]
        sample = _Sample(self._clock(), counters.rows, counters.tokens, counters.batches)
        waits = counters.state != "computing"  # such as while the model loads
        if meter is None or meter.job != job or (waits and not meter.begun(sample)):
            meter = self._meters[number] = _Meter(job, sample)
        else:
            meter.add(sample)
        return meter.report(device, counters)


def to_text(reports: Iterable[DeviceReport]) -> str:
    """Reports as JSON."""
    return json.dumps([asdict(report) for report in reports])


def from_text(text: str | None) -> tuple[DeviceReport, ...]:
    """The reports in a value that others may have written; none where it is something else."""
    try:
        data: Any = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    return parse_reports(data)


def parse_reports(data: object) -> tuple[DeviceReport, ...]:
    """The reports among some JSON values."""
    values = data if isinstance(data, list) else []
    return tuple(report for one in values if (report := DeviceReport.from_json(one)))
