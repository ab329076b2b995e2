"""Run a prepared job in the foreground until it is stopped, failed, finished or replaced.

An observer shows the user what happens meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.choice import Choices
from pipeline.errors import BeiJobsError, Interrupted, JobFailed, StorageError
from pipeline.output.manifest import finalise
from pipeline.output.open_shards import rows_kept
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, failure_reason, job_status
from pipeline.planning.choices import not_set_by_user
from pipeline.planning.prepare import Prepared
from pipeline.shards import ShardResult
from pipeline.store.uris import redact
from workers.device_reports import Reporter
from workers.known_jobs import JobRef, KnownJobs
from workers.local import LocalRun, compute_missing
from workers.open_devices import LocalDevice
from workers.rates import Rates
from workers.run_lease import alone_on
from workers.settings import Settings
from workers.stop_signals import stoppable
from workers.tally import Tally

# How often the store is asked whether the run was cancelled or replaced.
_POLL_SECONDS = 5.0
# Rounds over what is missing: parts may vanish while the job runs.
_MAX_ROUNDS = 3


class Observer(Protocol):
    """Called when something happens, from the thread that runs the job."""

    def waiting(self, holder: str) -> None:
        """The process with the id `holder` runs a job on this output."""
        ...

    def started(self, rows: int, reused: int) -> None:
        """The run begins: its rows, and how many of them are already committed."""
        ...

    def loading(self, model: str, devices: Sequence[str]) -> None:
        """The devices load the model, which takes seconds to minutes."""
        ...

    def chose(self, choices: Choices) -> None:
        """The engine of a device is loaded, with these choices."""
        ...

    def warned(self, line: str) -> None:
        """A device does something in another way than it was asked to."""
        ...

    def batch(self, rows: int, tokens: int) -> None:
        """Rows and tokens that just came back from a device."""
        ...

    def stopping(self) -> None:
        """A signal arrived: the run stops after the batches under way."""
        ...

    def ended(self) -> None:
        """The run is over, whatever its outcome."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status of a run after this process ran it."""

    status: JobStatus
    error: BeiJobsError | None = None  # why the run is not finished


def run_in_foreground(
    prepared: Prepared, settings: Settings, devices: tuple[LocalDevice, ...], observer: Observer
) -> Outcome:
    """Run a prepared job on this machine; wait first for other processes on the same output.

    Ctrl-C or SIGTERM stops it between two batches, a second signal at once.

    Args:
        prepared: not finished.
        settings: of this machine.
        devices: from `workers.open_devices.open_devices`.
        observer: called when something happens.
    """
    started, output, run = time.monotonic(), prepared.output, prepared.run
    names = [device.device for device in devices]
    reporter = Reporter(names, [device.counters for device in devices])
    with alone_on(output, run, settings.state_dir, observer.waiting) as lease:
        tally = Tally.of(output, prepared.plan)
        lease.progress = lambda: {
            "rows": tally.reused_rows + tally.batched, "devices": reporter.to_json(),
        }  # fmt: skip
        error: BeiJobsError | None = None
        observer.started(prepared.plan.rows, tally.reused_rows)
        if tally.shards_ended < len(prepared.plan):
            observer.loading(redact(run.spec.model.name), names)
        try:
            _run_to_end(prepared, devices, observer, tally)
        except (Interrupted, JobFailed) as stopped:
            error = stopped
        finally:
            observer.ended()
        lease.end(done=error is None)
        if error is None and 2 * tally.computed >= tally.committed:  # copies are faster
            Rates(settings.state_dir).remember(run.spec.space, names, tally.watch.rate())
        status = tally.applied_to(job_status(output, run), time.monotonic() - started)
    return Outcome(status, error)


def remember(prepared: Prepared, settings: Settings) -> None:
    """Add a job to the known jobs of this machine, so that commands find it by its id."""
    KnownJobs(settings.state_dir).add(JobRef.of(prepared.run))


def all_reused(status: JobStatus) -> JobStatus:
    """The status of a run that was finished before: every row is reused, none computed."""
    reused = status.rows_done - status.failed_rows
    return replace(status, computed=0, deduplicated=0, reused=reused, seconds=0.0)


def _run_to_end(
    prepared: Prepared, devices: tuple[LocalDevice, ...], observer: Observer, tally: Tally
) -> None:
    output, run, plan = prepared.output, prepared.run, prepared.plan

    def on_batch(rows: int, tokens: int) -> None:
        tally.batched += rows
        tally.watch.add(tokens)
        observer.batch(rows, tokens)

    def on_choices(choices: Choices) -> None:
        tally.watch.loaded()
        observer.chose(not_set_by_user(choices, run.spec))

    with stoppable(observer.stopping) as stop:
        for _ in range(_MAX_ROUNDS):
            with _cancelled_or_replaced(output, run) as unwanted:
                local = LocalRun(
                    devices,
                    lambda unwanted=unwanted: stop.is_set() or unwanted.is_set(),  # type: ignore[misc]
                    on_batch,
                    on_choices,
                    observer.warned,
                    prepared.card,
                )
                for result in compute_missing(output, run, plan, local):
                    tally.add(result)
            _check_ended(prepared, tally, interrupted=stop.is_set())
            if finalise(output, run, plan, max_failed=run.spec.max_failed_rows) is not None:
                return
            _check_ended(prepared, tally, interrupted=False)
    raise JobFailed(
        f"parts of {redact(output.uri)} disappear while the job runs",
        hint="find what deletes them, then run the same command again",
    )


def _check_ended(prepared: Prepared, tally: Tally, *, interrupted: bool) -> None:
    """Refuse to finish a run that was stopped, failed, cancelled or replaced by a later one.

    Raises:
        Interrupted: the run was stopped by a signal.
        JobFailed: it failed, was cancelled or was replaced; the message says which.
    """
    output, run, plan = prepared.output, prepared.run, prepared.plan
    if interrupted and tally.shards_ended < len(plan):
        raise Interrupted(
            f"stopped: {tally.reused_rows + tally.committed:,} of {plan.rows:,} rows are committed "
            f"in {redact(output.uri)}{_kept_and_lost(output, plan, tally)}",
            hint="run the same command again to resume",
        )
    if n := output.superseded(run):
        raise JobFailed(
            f"run {n} of {redact(output.uri)} superseded this run, run {run.n}",
            hint=f"see its status with `bei-jobs status {redact(output.uri)}`",
        )
    if output.cancelled(run):
        raise JobFailed(
            f"the job {run.job} was cancelled",
            hint="run the same command again to resume; committed parts are kept",
        )
    if tally.failures:
        _fail(output, run, tally.failures)


def _kept_and_lost(output: Output, plan: Plan, tally: Tally) -> str:
    """What became of the rows that were computed, but are in no part."""
    kept = rows_kept(output, plan)
    lost = max(0, tally.kept_before + tally.batched - tally.committed - kept)
    words = [f"{kept:,} more are computed and kept"] if kept else []
    words += [f"{lost:,} computed rows are lost"] if lost else []
    return "".join(f", {word}" for word in words) or ", and no other row was computed"


def _fail(output: Output, run: Run, failures: list[ShardResult]) -> None:
    """Mark the run as failed.

    Raises:
        JobFailed: always.
    """
    reason = failure_reason(failures, run.shards)
    hint = failures[0].hint or "fix the cause and run the same command again"
    output.fail(run, reason, hint)
    raise JobFailed(reason, hint=f"{hint}; committed parts are kept and not computed again")


@contextmanager
def _cancelled_or_replaced(output: Output, run: Run) -> Iterator[threading.Event]:
    """An event that a thread sets when the run is cancelled or superseded; it polls the store."""
    unwanted, closed = threading.Event(), threading.Event()

    def poll() -> None:
        while not (unwanted.is_set() or closed.wait(_POLL_SECONDS)):
            with suppress(StorageError):  # the next poll asks again
                if output.cancelled(run) or output.superseded(run):
                    unwanted.set()

    thread = threading.Thread(target=poll, name="cancelled-or-replaced", daemon=True)
    thread.start()
    try:
        yield unwanted
    finally:
        closed.set()
        thread.join()
