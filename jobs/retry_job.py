"""Find out what a job needs to be retried, and run that here or enqueue it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.display import Display
from jobs.find_job import find_job, open_broker
from jobs.fleet import fleet_status
from jobs.run_job import failures_noted, run_here
from jobs.summary import exit_code, print_summary
from pipeline.errors import JobFailed
from pipeline.output.manifest import read_manifest
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.output.status import job_status
from pipeline.planning.prepare import Prepared
from pipeline.planning.repair import quarantined_parts, start_repair
from pipeline.store.uris import redact
from workers.engine_cache import verified_card
from workers.settings import Settings, load_settings

if TYPE_CHECKING:
    from workers.broker import Broker


def retry(job: str, broker_url: str | None, display: Display) -> int:
    """Retry a job, print its summary and return the exit code.

    Args:
        job: a job id or an output URI.
        broker_url: Redis of the fleet; None runs the job here.
        display: what the user sees.

    Raises:
        BeiJobsError: the job is unknown, superseded or cannot run here, or its run failed.
    """
    settings, broker = load_settings(), open_broker(broker_url)
    output, run = find_job(job, settings, broker)
    _refuse_superseded(output, run)
    with failures_noted(output.uri):
        if broker is None:
            return _retry_here(output, run, settings, display)
        return _retry_on_broker(output, run, broker, display)


def _retry_on_broker(output: Output, run: Run, broker: Broker, display: Display) -> int:
    broker.ping()
    started = _start(output, run, display)
    if started is not None:
        from workers.reconcile import reconcile

        run, plan = started
        broker.register(run)
        reconcile(broker, output, run, plan)
    return _print_status(output, run, display, broker)


def _retry_here(output: Output, run: Run, settings: Settings, display: Display) -> int:
    card = verified_card(run.spec, settings.cache_dir)
    started = _start(output, run, display)
    if started is None:
        return _print_status(output, run, display)
    run, plan = started
    prepared = Prepared(output, run, plan, card, {}, finished=False)
    return run_here(lambda: prepared, (output.uri, *run.inputs), settings, display, None)


def _refuse_superseded(output: Output, run: Run) -> None:
    if n := output.superseded(run):
        uri = redact(output.uri)
        raise JobFailed(
            f"run {n} of {uri} superseded the job {run.job}",
            hint=f"retry the last job of the output with `bei-jobs retry {uri}`",
        )


def _start(output: Output, run: Run, display: Display) -> tuple[Run, Plan] | None:
    """Reset a run that is not finished, or start the repair of one that is; None if unneeded."""
    if read_manifest(output, run) is not None:
        if repair := start_repair(output, run):
            return repair
        _say("nothing to retry: no row of this job is quarantined", display)
        return None
    output.forget_failures(run)
    plan = output.plan(run)
    if parts := quarantined_parts(output, plan):
        _say(
            f"parts with quarantined rows are kept as they are ({parts}): once the job is done, "
            "retry it again to compute those rows again",
            display,
        )
    return run, plan


def _say(line: str, display: Display) -> None:
    if not display.as_json:
        click.echo(line, err=True)


def _print_status(output: Output, run: Run, display: Display, broker: Broker | None = None) -> int:
    status = fleet_status(broker, output, run)[0] if broker else job_status(output, run)
    print_summary(run, status, as_json=display.as_json)
    return exit_code(status)
