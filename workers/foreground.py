"""A prepared run carried out on this machine, to its end: stopped, failed, finished or replaced.

What a user sees meanwhile is the observer's business.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

from pipeline.choice import Choices
from pipeline.errors import BeiJobsError, Interrupted, JobFailed, StorageError
from pipeline.output.manifest import finalise
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, failure_reason, job_status
from pipeline.planning.prepare import Prepared
from pipeline.spec import JobSpec, ShardResult
from pipeline.store.uris import redact
from workers.known_jobs import JobRef, KnownJobs, output_lock
from workers.local import LocalRun, compute_missing
from workers.settings import Settings

# How often the store is asked whether the run is still wanted.
_LOOK_SECONDS = 5.0


class Observer(Protocol):
    """What is told as it happens. Called from the thread that carries out the run."""

    def waiting(self, holder: str) -> None:
        """Another process, by its id, runs a job on this output."""
        ...

    def started(self, rows: int, reused: int) -> None:
        """The run begins: its rows, and those found committed."""
        ...

    def chose(self, choices: Choices) -> None:
        """A device's engine is loaded, and this is what was chosen for it."""
        ...

    def batch(self, rows: int, tokens: int) -> None:
        """Rows and tokens that just came back from a device."""
        ...

    def stopping(self) -> None:
        """A signal came: the run stops after the batches under way."""
        ...

    def ended(self) -> None:
        """The run is over, however it went."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run stood when this invocation ended, and why it is not finished."""

    status: JobStatus
    error: BeiJobsError | None = None


@dataclass(slots=True)
class _Tally:
    """What came of the shards that this invocation took on."""

    reused_rows: int
    ended: int  # shards, those found committed among them
    computed: int = 0
    tokens: int = 0
    truncated: int = 0
    failed_rows: int = 0
    failures: list[ShardResult] = field(default_factory=list)

    @classmethod
    def of(cls, output: Output, plan: Plan) -> _Tally:
        missing = set(plan.missing(output.committed()))
        rows = plan.table["rows"].to_pylist()
        return cls(
            reused_rows=sum(n for i, n in enumerate(rows) if i not in missing),
            ended=len(plan) - len(missing),
        )

    def add(self, result: ShardResult) -> None:
        self.ended += 1
        if result.error:
            self.failures.append(result)
            return
        self.computed += result.rows if result.computed else 0
        self.reused_rows += 0 if result.computed else result.rows
        self.tokens += result.tokens
        self.truncated += result.truncated
        self.failed_rows += result.failed


def run_in_foreground(
    prepared: Prepared, settings: Settings, devices: tuple[str, ...], observer: Observer
) -> Ended:
    """Carry out a prepared run here; the run of another process on its output is waited for.

    Ctrl-C and SIGTERM stop it between two batches, a second one at once.

    Args:
        prepared: not finished.
        settings: of this machine.
        devices: such as ("cpu",) or ("cuda:0", "cuda:1"): one process each where there are several.
        observer: told as it happens.
    """
    started = time.monotonic()
    output, run = prepared.output, prepared.run
    with output_lock(settings.state_dir, output.uri, observer.waiting):
        tally = _Tally.of(output, prepared.plan)
        error: BeiJobsError | None = None
        observer.started(prepared.plan.rows, tally.reused_rows)
        try:
            _carry_out(prepared, settings, devices, observer, tally)
        except (Interrupted, JobFailed) as stopped:
            error = stopped
        finally:
            observer.ended()
        status = _of_this_run(job_status(output, run), tally, time.monotonic() - started)
    return Ended(status, error)


def remember(prepared: Prepared, settings: Settings) -> None:
    """Make a job known to this machine, so that its id can be used here."""
    KnownJobs(settings.state_dir).add(JobRef.of(prepared.run))


def nothing_to_do(status: JobStatus) -> JobStatus:
    """A finished run as the invocation that found it so tells of it: all of it reused."""
    return replace(status, computed=0, reused=status.rows_done, seconds=0.0)


def _carry_out(
    prepared: Prepared,
    settings: Settings,
    devices: tuple[str, ...],
    observer: Observer,
    tally: _Tally,
) -> None:
    output, run, plan = prepared.output, prepared.run, prepared.plan
    with _stoppable(observer.stopping) as stop:
        for _ in range(MAX_ATTEMPTS):
            with _ended_meanwhile(output, run) as ended:
                local = LocalRun(
                    devices,
                    settings.cache_dir,
                    lambda ended=ended: stop.is_set() or ended.is_set(),  # type: ignore[misc]
                    observer.batch,
                    lambda choices: observer.chose(_unasked(choices, run.spec)),
                    prepared.card,
                )
                for result in compute_missing(output, run, plan, local):
                    tally.add(result)
            _check_ended(prepared, tally, interrupted=stop.is_set())
            if finalise(output, run, plan, max_failed=run.spec.max_failed_rows) is not None:
                return
            _check_ended(prepared, tally, interrupted=False)
    raise JobFailed(
        f"parts of {redact(output.uri)} vanish while the job runs",
        hint="find out who deletes them, then run the same command again",
    )


def _unasked(choices: Choices, spec: JobSpec) -> Choices:
    """The choices of an engine that the user left to it."""
    asked = {"precision": spec.precision != "auto", "token-budget": spec.token_budget is not None}
    return {name: choice for name, choice in choices.items() if not asked.get(name)}


def _check_ended(prepared: Prepared, tally: _Tally, *, interrupted: bool) -> None:
    """Finish no run that was stopped, failed, cancelled or replaced by a higher one.

    Raises:
        Interrupted, JobFailed: says which.
    """
    output, run, plan = prepared.output, prepared.run, prepared.plan
    if interrupted and tally.ended < len(plan):
        raise Interrupted(
            f"stopped: {tally.reused_rows + tally.computed:,} of {plan.rows:,} rows are committed "
            f"in {redact(output.uri)}",
            hint="run the same command again to resume",
        )
    if n := output.superseded(run):
        raise JobFailed(
            f"run {n} of {redact(output.uri)} took the place of this one, run {run.n}",
            hint=f"`bei-jobs status {redact(output.uri)}` shows how it stands",
        )
    if output.cancelled(run):
        raise JobFailed(
            f"the job {run.job} was cancelled",
            hint="committed parts are kept; the same command resumes",
        )
    if tally.failures:
        _fail(output, run, tally.failures)


def _fail(output: Output, run: Run, failures: list[ShardResult]) -> None:
    """Mark the run as failed and say why.

    Raises:
        JobFailed: always.
    """
    reason = failure_reason(failures, run.shards)
    hint = failures[0].hint or "fix the cause and run the same command again"
    output.fail(run, reason, hint)
    raise JobFailed(reason, hint=f"{hint}; committed parts are kept and not computed again")


@contextmanager
def _ended_meanwhile(output: Output, run: Run) -> Iterator[threading.Event]:
    """An event that is set when the run is cancelled or replaced while the block runs.

    The store is asked in a thread, so that a slow one never holds the device up.
    """
    ended, over = threading.Event(), threading.Event()

    def look() -> None:
        while not (ended.is_set() or over.wait(_LOOK_SECONDS)):
            with suppress(StorageError):  # asked again next time
                if output.cancelled(run) or output.superseded(run):
                    ended.set()

    thread = threading.Thread(target=look, name="ended-meanwhile", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


def _of_this_run(status: JobStatus, tally: _Tally, seconds: float) -> JobStatus:
    """The totals of the run, with what this invocation computed apart from what it found.

    A run without a manifest has no totals of its own: it shows what this invocation counted.
    """
    return replace(
        status,
        computed=tally.computed,
        reused=max(0, status.rows_done - tally.computed),
        failed_rows=max(status.failed_rows, tally.failed_rows),
        tokens=max(status.tokens, tally.tokens),
        truncated=max(status.truncated, tally.truncated),
        seconds=seconds,
    )


class _Stop:
    """Set by the first Ctrl-C or SIGTERM; a second one does not wait."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._set = False
        self._on_stop = on_stop

    def is_set(self) -> bool:
        return self._set

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        self._on_stop()


@contextmanager
def _stoppable(on_stop: Callable[[], None]) -> Iterator[_Stop]:
    stop = _Stop(on_stop)
    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
