"""The workers of a fleet and their speed, as `submit`, `status`, `list` and `watch` show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, job_status

if TYPE_CHECKING:
    from workers.broker import Broker, WorkerInfo
    from workers.step_back import Refusal


@dataclass(frozen=True, slots=True)
class FleetView:
    """The workers that sent a heartbeat recently, and their speed over the last half minute."""

    workers: tuple[WorkerInfo, ...]
    rows_per_second: float
    tokens_per_second: float
    spans_under_way: int = 0  # of these jobs
    stepped_back: tuple[Refusal, ...] = ()  # devices that cannot run these jobs for now

    def to_json(self) -> dict[str, Any]:
        """What `--json` adds to the status of a job."""
        return {
            "workers": [asdict(worker) for worker in self.workers],
            "rows_per_second": round(self.rows_per_second, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "spans_under_way": self.spans_under_way,
            "stepped_back": [asdict(refusal) for refusal in self.stepped_back],
        }

    def __str__(self) -> str:
        """Such as "2 workers on 3 devices, 3 spans under way, 1,200 rows/s, 96,000 tokens/s"."""
        if not self.workers:
            return "no worker is connected"
        devices = sum(len(worker.devices) for worker in self.workers)
        speed = f"{self.rows_per_second:,.0f} rows/s, {self.tokens_per_second:,.0f} tokens/s"
        busy = f"{_count(self.spans_under_way, 'span')} under way"
        workers = f"{_count(len(self.workers), 'worker')} on {_count(devices, 'device')}"
        return f"{workers}, {busy}, {speed}"

    def refusals(self) -> list[str]:
        """A line for each device that has stepped back: where it is, and why."""
        return [f"{one.host} ({one.device}): {one.reason}" for one in self.stepped_back]


def view_fleet(broker: Broker, jobs: Iterable[str]) -> FleetView:
    """The live workers of a fleet, and the speed of some of its jobs.

    Args:
        broker: of the fleet.
        jobs: ids of the jobs whose speed counts.

    Raises:
        BrokerError: Redis cannot be reached.
    """
    jobs = list(jobs)
    counters = [broker.progress(job) for job in jobs]
    return FleetView(
        tuple(broker.workers()),
        sum(counter.rows_per_second for counter in counters),
        sum(counter.tokens_per_second for counter in counters),
        sum(_leased(broker, job) for job in jobs),
        tuple(refusal for job in jobs for refusal in broker.refusals(job)),
    )


def fleet_status(broker: Broker, output: Output, run: Run) -> tuple[JobStatus, FleetView]:
    """The status of a job on a broker, and the fleet with its speed on this job.

    Raises:
        BrokerError: Redis cannot be reached.
    """
    fleet = view_fleet(broker, [run.job])
    return as_seen_by(fleet, job_status(output, run)), fleet


def as_seen_by(fleet: FleetView, status: JobStatus) -> JobStatus:
    """The status of a job on a queue, with the state that its fleet knows better than the store."""
    if not status.on_queue:
        return status
    if fleet.spans_under_way or fleet.rows_per_second:
        state = "running"
    else:
        state = "queued" if fleet.workers else "waiting for workers"
    return replace(status, state=state)


def _leased(broker: Broker, job: str) -> int:
    with broker.ledger(job) as ledger:
        return len(ledger.leased())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
