"""Carry out a prepared run: here in the foreground, or on a broker's queue."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import click

from jobs.devices import devices
from jobs.prepare import Prepared
from jobs.progress import Bar
from jobs.summary import exit_code, show
from pipeline.errors import Interrupted, JobFailed, UsageError
from pipeline.manifest import finalise
from pipeline.output import Output, Run
from pipeline.plan import Plan
from pipeline.spec import ShardResult
from pipeline.state import JobState, job_state
from pipeline.storage import redact
from workers.local import Here
from workers.local import run_here as compute_here
from workers.registry import JobRef, Registry, alone
from workers.settings import Settings

_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Watch:
    """What the user sees meanwhile and at the end."""

    as_json: bool = False
    quiet: bool = False


@dataclass(slots=True)
class _Tally:
    """What came of the shards that this invocation took on."""

    reused_rows: int
    reused_shards: int
    computed: int = 0
    shards: int = 0
    tokens: int = 0
    truncated: int = 0
    failed_rows: int = 0
    failures: list[ShardResult] | None = None

    def add(self, result: ShardResult) -> None:
        if result.error:
            self.failures = [*(self.failures or []), result]
            return
        self.shards += 1
        self.computed += result.rows if result.computed else 0
        self.reused_rows += 0 if result.computed else result.rows
        self.tokens += result.tokens
        self.truncated += result.truncated
        self.failed_rows += result.failed


def run_here(prepared: Prepared, settings: Settings, how: Watch, device: str | None) -> int:
    """Run the job in the foreground and print how it went.

    Raises:
        Interrupted: Ctrl-C; the same command goes on.
        JobFailed: shards failed, or too many rows.
    """
    output, run, plan = prepared.output, prepared.run, prepared.plan
    Registry(settings.state_dir).add(JobRef.of(run))
    if prepared.finished:
        state = _nothing_to_do(job_state(output, run))
        if not how.as_json:
            click.echo("nothing to do: every row of these inputs is there", err=True)
        show(run, state, as_json=how.as_json)
        return exit_code(state)
    started = time.monotonic()
    with alone(settings.state_dir, output.uri, _say_waiting):
        tally = _compute(output, run, plan, settings, how, device)
        if tally.failures:
            _fail(output, run, tally.failures)
        if finalise(output, run, plan, max_failed=run.spec.max_failed_rows) is None:
            raise JobFailed(
                f"another run of {redact(output.uri)} took the place of this one",
                hint=f"`bei-jobs status {redact(output.uri)}` says how it stands",
            )
    state = _of_this_run(job_state(output, run), tally, time.monotonic() - started)
    show(run, state, as_json=how.as_json)
    return exit_code(state)


def _say_waiting(holder: str) -> None:
    click.echo(f"waiting for process {holder}, which runs a job on this output", err=True)


def _compute(
    output: Output, run: Run, plan: Plan, settings: Settings, how: Watch, device: str | None
) -> _Tally:
    missing = set(plan.missing(output.committed()))
    rows = plan.table["rows"].to_pylist()
    reused = sum(n for i, n in enumerate(rows) if i not in missing)
    tally = _Tally(reused, len(plan) - len(missing))
    with _stoppable() as stop, Bar(plan.rows, reused, quiet=how.quiet) as bar:
        here = Here(devices(device), settings.cache_dir, stop.is_set, bar.add)
        for result in compute_here(output, run, plan, here):
            tally.add(result)
    if stop.is_set():
        raise Interrupted(
            f"stopped: {tally.reused_rows + tally.computed:,} of {plan.rows:,} rows are committed "
            f"in {redact(output.uri)}",
            hint="run the same command again to go on where it was",
        )
    return tally


def _nothing_to_do(state: JobState) -> JobState:
    return replace(state, computed=0, reused=state.rows_done, seconds=0.0)


def _of_this_run(state: JobState, tally: _Tally, seconds: float) -> JobState:
    """The totals of the run, with what this invocation computed told from what it found."""
    return replace(
        state, computed=tally.computed, reused=state.rows_done - tally.computed, seconds=seconds
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
    prepared: Prepared, broker: str, settings: Settings, how: Watch, *, wait: bool
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
    state = job_state(output, run)
    if prepared.finished:
        state = _nothing_to_do(state)
    show(run, state, as_json=how.as_json)
    return exit_code(state)
