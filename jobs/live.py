"""How a job stands at this moment, from its output, its broker and the processes that run it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.fleet import FleetView, as_seen_by, view_fleet
from pipeline.errors import BrokerError
from pipeline.output.leases import Lease, read_leases
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import BEGUN, OPEN, JobStatus, job_status
from pipeline.store.uris import is_local
from workers.device_reports import DeviceReport, parse_reports

if TYPE_CHECKING:
    from workers.broker import Broker
    from workers.live_counters import Progress

# Between reads of the store. It is the truth, but each read lists it: on a remote one, which takes
# money for it, the interval doubles each time; on a disk it is several times as long as a read.
_FIRST_STORE_SECONDS, _MAX_STORE_SECONDS = 1.0, 10.0
_READS = 10.0
_ERRORS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Worker:
    """A device of a live worker, or of a process that runs the job in the foreground."""

    host: str
    pid: int
    report: DeviceReport | None  # None: of an earlier version, which says nothing
    device: str
    waits: bool = False  # for another process on the same output


@dataclass(frozen=True, slots=True)
class Live:
    """How a job stands.

    Attributes:
        run: of the job.
        status: of the run, as the store said last.
        rows: done so far.
        tokens: computed so far, as far as it is known.
        rows_per_second: over the last half minute.
        tokens_per_second: likewise.
        mean: rows per second over some minutes; None while that is not known.
        spread: two standard errors of it; None where nobody says.
        workers: one for each device.
        strip: a mark for each shard, see `pipeline.output.status`.
        errors: the last ones.
        trouble: why the broker is not heard of; "" where it is, or there is none.
        fleet: the workers that are connected, where there is a broker.
    """

    run: Run
    status: JobStatus
    rows: int
    tokens: int = 0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    mean: float | None = None
    spread: float | None = None
    workers: tuple[Worker, ...] = ()
    strip: bytes = b""
    errors: tuple[str, ...] = ()
    trouble: str = ""
    fleet: FleetView | None = None

    @property
    def over(self) -> bool:
        """Whether the job has ended, or nobody works on it."""
        return self.status.final or self.status.state == "interrupted"

    def seconds_left(self) -> tuple[float, float, float] | None:
        """Seconds to the end: likely, at least, and at most; None while that is not known.

        At most is infinite where the spread is not known. Else both are a factor away from what is
        likely, since a rate is never negative.
        """
        if not self.mean or self.status.final:
            return None
        likely = (self.status.rows - self.rows) / self.mean
        if self.spread is None:
            return likely, 0.0, math.inf
        factor = math.exp(self.spread / self.mean)
        return likely, likely / factor, likely * factor


class Watched:
    """A job that is watched.

    Args:
        output: of the job.
        run: of the job.
        broker: of its fleet; None reads the output alone.

    Raises:
        BrokerError: Redis cannot be reached, and never could.
    """

    def __init__(self, output: Output, run: Run, broker: Broker | None) -> None:
        self.output = output
        self.run = run
        self.broker = broker
        self._local = is_local(output.uri)
        self._interval = _FIRST_STORE_SECONDS
        self._read_store()
        self._live = self._look()

    def look(self) -> Live:
        """How it stands now. A broker that is lost meanwhile is `trouble`, and no error.

        The store is read from time to time; with a broker, lost work is sent again then.
        """
        if self._live.over:
            return self._live
        try:
            if self._due():
                try:
                    self._reconcile()
                finally:
                    self._read_store()
            self._live = self._look()
        except BrokerError as error:
            self._live = self._without_broker(str(error))
        return self._live

    def _due(self) -> bool:
        live, waited = self._live, time.monotonic() - self._read
        complete = live.rows >= live.status.rows
        left = self.broker is None and not live.status.on_queue and not live.workers
        return ((complete or left) and waited > _FIRST_STORE_SECONDS / 2) or waited > self._interval

    def _reconcile(self) -> None:
        if self.broker is not None:
            from workers.reconcile import reconcile  # redis takes a moment to import

            reconcile(self.broker, self.output, self.run)

    def _read_store(self) -> None:
        begun = time.monotonic()
        self._status = job_status(self.output, self.run)
        self._read = time.monotonic()
        least = _FIRST_STORE_SECONDS if self._local else 2 * self._interval
        self._interval = min(max(least, _READS * (self._read - begun)), _MAX_STORE_SECONDS)

    def _look(self) -> Live:
        return self._in_foreground() if self.broker is None else self._on_broker(self.broker)

    def _in_foreground(self) -> Live:
        leases = [] if self._status.final else read_leases(self.output, self.run)
        leases = [lease for lease in leases if lease.live]
        told = [rows for one in leases if isinstance(rows := one.progress.get("rows"), int)]
        return self._live_of(_workers_of(leases), self._rows(*told))

    def _on_broker(self, broker: Broker) -> Live:
        fleet = view_fleet(broker, [self.run.job])
        progress = broker.progress(self.run.job)
        workers = [
            Worker(info.host, info.pid, report, device)
            for info, reports in zip(fleet.workers, broker.reports(fleet.workers), strict=True)
            for device, report in _by_device(info.devices, reports)
        ]
        rows = self._rows(self._status.reused + progress.rows)
        return self._live_of(workers, rows, progress, fleet, _spans(broker, self.run.job))

    def _rows(self, *told: int) -> int:
        """The rows that are done: those that processes tell of, and at least what is saved."""
        status = self._status
        if status.final:
            return status.rows_done
        return min(status.rows, max(status.rows_done + status.kept, *told, 0))

    def _live_of(
        self,
        workers: Sequence[Worker],
        rows: int,
        progress: Progress | None = None,
        fleet: FleetView | None = None,
        under_way: Sequence[int] = (),
    ) -> Live:
        reports = [one.report for one in workers if one.report and one.report.job == self.run.job]
        # Workers of an earlier version report only what all of them compute.
        sources = reports if reports or progress is None else [progress]
        return Live(
            self.run,
            self._status if fleet is None else as_seen_by(fleet, self._status),
            rows,
            progress.tokens if progress else sum(one.tokens for one in reports),
            sum(one.rows_per_second for one in sources),
            sum(one.tokens_per_second for one in sources),
            *(
                _mean_and_spread(reports)
                if reports or not progress
                else (progress.rows_per_second, None)
            ),
            tuple(workers),
            _marked(self._status.strip, under_way),
            self._errors(workers, fleet),
            fleet=fleet,
        )

    def _errors(self, workers: Sequence[Worker], fleet: FleetView | None) -> tuple[str, ...]:
        job = self.run.job
        lines = [f"stepped back: {line}" for line in (fleet.refusals() if fleet else ())]
        lines += [
            f"{one.host} ({one.device}): {one.report.error}"
            for one in workers
            if one.report and one.report.error and one.report.job == job
        ]
        return tuple(lines[:_ERRORS_SHOWN] + list(self._status.errors))[-2 * _ERRORS_SHOWN :]

    def _without_broker(self, trouble: str) -> Live:
        """What the store alone says, until the broker is back."""
        return Live(
            self.run,
            self._status,
            max(self._live.rows, self._rows()),
            self._live.tokens,
            strip=_marked(self._status.strip, ()),
            errors=self._status.errors,
            trouble=trouble,
        )


def _workers_of(leases: Sequence[Lease]) -> list[Worker]:
    return [
        Worker(
            lease.host,
            lease.pid,
            report,
            report.device if report else "",
            waits=not lease.computing,
        )
        for lease in leases
        for report in parse_reports(lease.progress.get("devices")) or (None,)
    ]


def _by_device(
    devices: Sequence[str], reports: Sequence[DeviceReport]
) -> list[tuple[str, DeviceReport | None]]:
    if reports:
        return [(report.device, report) for report in reports]
    return [(device, None) for device in devices]


def _spans(broker: Broker, job: str) -> list[int]:
    """Indexes of the shards that are leased."""
    with broker.ledger(job) as ledger:
        return [i for span in ledger.leased() for i in range(span.start, span.start + span.count)]


def _marked(strip: bytes, under_way: Sequence[int]) -> bytes:
    """The strip with a mark for the open shards that are under way."""
    marks = bytearray(strip)
    for index in under_way:
        if index < len(marks) and marks[index : index + 1] == OPEN:
            marks[index : index + 1] = BEGUN
    return bytes(marks)


def _mean_and_spread(reports: Sequence[DeviceReport]) -> tuple[float | None, float | None]:
    """Those of the sum of the rates of devices, which vary independently."""
    working = [one for one in reports if one.rows_per_second > 0]
    known = [(one.mean, one.spread) for one in working if one.mean is not None]
    if not known or len(known) < len(working):
        return None, None
    return sum(mean for mean, _ in known), sum((spread or 0) ** 2 for _, spread in known) ** 0.5
