"""Carry out a prepared run: here in the foreground, or on a broker's queue."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType

import click

from jobs.cli import print_error
from jobs.progress_bar import Bar
from jobs.summary import exit_code, show
from pipeline.errors import BeiJobsError, Interrupted, JobFailed, StorageError, UsageError
from pipeline.output.manifest import finalise
from pipeline.output.output import MAX_ATTEMPTS, Output, Run
from pipeline.output.plan import Plan
from pipeline.output.status import JobStatus, job_status
from pipeline.planning.prepare import Prepared
from pipeline.spec import ShardResult
from pipeline.store.directory import redact
from workers.devices import devices
from workers.known_jobs import JobRef, KnownJobs, output_lock
from workers.local import LocalRun
from workers.local import run_here as compute_here
from workers.settings import Settings

_REASONS_SHOWN = 3
#: Between two looks whether the run is still wanted.
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Display:
    """What the user sees meanwhile and at the end."""

    as_json: bool = False
    quiet: bool = False


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


def run_here(prepared: Prepared, settings: Settings, how: Display, device: str | None) -> int:
    """Run the job in the foreground and print how it went.

    Raises:
        Interrupted: Ctrl-C; the same command goes on.
        JobFailed: shards failed, or too many rows.
    """
    output, run = prepared.output, prepared.run
    KnownJobs(settings.state_dir).add(JobRef.of(run))
    if prepared.finished:
        state = _nothing_to_do(job_status(output, run))
        if not how.as_json:
            click.echo("nothing to do: every row of these inputs is there", err=True)
        show(run, state, as_json=how.as_json)
        return exit_code(state)
    with output_lock(settings.state_dir, output.uri, _say_waiting):
        return _run_and_tell(prepared, settings, how, device)


def _run_and_tell(prepared: Prepared, settings: Settings, how: Display, device: str | None) -> int:
    output, run = prepared.output, prepared.run
    started = time.monotonic()
    tally = _Tally.of(output, prepared.plan)
    stopped: BeiJobsError | None = None
    try:
        _carry_out(prepared, settings, how, device, tally)
    except (Interrupted, JobFailed) as error:
        if not how.as_json:
            raise
        print_error(error.message, error.hint)
        stopped = error
    state = _of_this_run(job_status(output, run), tally, time.monotonic() - started)
    show(run, state, as_json=how.as_json)
    return stopped.exit_code if stopped else exit_code(state)


def _carry_out(
    prepared: Prepared, settings: Settings, how: Display, device: str | None, tally: _Tally
) -> None:
    output, run, plan = prepared.output, prepared.run, prepared.plan
    with _stoppable() as stop, Bar(plan.rows, tally.reused_rows, quiet=how.quiet) as bar:
        for _ in range(MAX_ATTEMPTS):
            with _watching(output, run) as ended:
                here = LocalRun(
                    devices(device),
                    settings.cache_dir,
                    lambda ended=ended: stop.is_set() or ended.is_set(),  # type: ignore[misc]
                    bar.add,
                )
                for result in compute_here(output, run, plan, here):
                    tally.add(result)
            _check_ended(prepared, tally, interrupted=stop.is_set())
            if finalise(output, run, plan, max_failed=run.spec.max_failed_rows) is not None:
                return
            _check_ended(prepared, tally, interrupted=False)
    raise JobFailed(
        f"parts of {redact(output.uri)} vanish while the job runs",
        hint="find out who deletes there, then run the same command again",
    )


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
            hint="run the same command again to go on where it was",
        )
    if n := output.superseded(run):
        raise JobFailed(
            f"run {n} of {redact(output.uri)} took the place of this one, run {run.n}",
            hint=f"`bei-jobs status {redact(output.uri)}` says how it stands",
        )
    if output.cancelled(run):
        raise JobFailed(
            f"the job {run.job} was cancelled",
            hint="what is committed stays; the same command goes on where it was",
        )
    if tally.failures:
        _fail(output, run, tally.failures)


@contextmanager
def _watching(output: Output, run: Run) -> Iterator[threading.Event]:
    """Look now and then whether the run is still wanted; the event is set when it is not.

    In a thread, so that a slow store never holds the device up.
    """
    ended, over = threading.Event(), threading.Event()

    def look() -> None:
        while not (ended.is_set() or over.wait(_LOOK_SECONDS)):
            with suppress(StorageError):  # asked again next time
                if output.cancelled(run) or output.superseded(run):
                    ended.set()

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


def _say_waiting(holder: str) -> None:
    click.echo(f"waiting for process {holder}, which runs a job on this output", err=True)


def _nothing_to_do(state: JobStatus) -> JobStatus:
    return replace(state, computed=0, reused=state.rows_done, seconds=0.0)


def _of_this_run(state: JobStatus, tally: _Tally, seconds: float) -> JobStatus:
    """The totals of the run, with what this invocation computed told from what it found.

    A run without a manifest has no totals of its own: it shows what this invocation counted.
    """
    return replace(
        state,
        computed=tally.computed,
        reused=max(0, state.rows_done - tally.computed),
        failed_rows=max(state.failed_rows, tally.failed_rows),
        tokens=max(state.tokens, tally.tokens),
        truncated=max(state.truncated, tally.truncated),
        seconds=seconds,
    )


def _fail(output: Output, run: Run, failures: list[ShardResult]) -> None:
    """Mark the run as failed and say why.

    Raises:
        JobFailed: always.
    """
    lines = [failure.error for failure in failures[:_REASONS_SHOWN]]
    if len(failures) > _REASONS_SHOWN:
        lines.append(f"… and {len(failures) - _REASONS_SHOWN} more")
    reason = f"{len(failures)} of {run.shards} shards failed:\n  " + "\n  ".join(lines)
    hint = failures[0].hint or "mend the cause and run the same command again"
    output.fail(run, reason, hint)
    raise JobFailed(reason, hint=f"{hint}; what is committed stays and is not computed again")


class _Stop:
    """Set by the first Ctrl-C or SIGTERM; a second one does not wait."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        click.echo("\nstopping after this batch …", err=True)


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    stop = _Stop()
    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_on_broker(
    prepared: Prepared, broker: str, settings: Settings, how: Display, *, wait: bool
) -> int:
    """Enqueue the job and print its id; with `wait`, follow it to its end.

    Raises:
        BrokerError: Redis is out of reach.
        UsageError: the output lies where workers cannot see it.
    """
    from jobs.follow import follow
    from workers.broker import Broker
    from workers.reconcile import reconcile

    output, run = prepared.output, prepared.run
    if output.uri.startswith("memory://"):
        raise UsageError(
            "a memory:// output exists in this process alone, no worker would see it",
            hint="give an --output that workers share, such as s3://bucket/vectors",
        )
    queue = Broker(broker)
    queue.ping()
    if not prepared.finished:
        queue.register(run)
        reconcile(queue, output, run)
    if wait:
        return follow(output, run, queue, how)
    state = job_status(output, run)
    if prepared.finished:
        state = _nothing_to_do(state)
    show(run, state, as_json=how.as_json)
    return exit_code(state)
