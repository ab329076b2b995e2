"""Run a prepared job, here or on a broker's queue, and print how it went."""

from __future__ import annotations

import click

from jobs.cli import print_error
from jobs.display import Display
from jobs.follow import follow
from jobs.summary import exit_code, show
from pipeline.errors import UsageError
from pipeline.output.status import job_status
from pipeline.planning.prepare import Prepared
from workers.devices import device_choices, find_devices, fleet_choices
from workers.foreground import nothing_to_do, remember, run_in_foreground
from workers.settings import Settings


def run_here(prepared: Prepared, settings: Settings, display: Display, device: str | None) -> int:
    """Run a job in the foreground and print how it went.

    Args:
        prepared: the run.
        settings: of this machine.
        display: what the user sees.
        device: as --device says, None for the default.

    Raises:
        Interrupted: Ctrl-C; the same command resumes.
        JobFailed: shards failed, or too many rows.
    """
    output, run = prepared.output, prepared.run
    remember(prepared, settings)
    if prepared.finished:
        status = nothing_to_do(job_status(output, run))
        if not display.as_json:
            click.echo("nothing to do: every row of these inputs is there", err=True)
        show(run, status, as_json=display.as_json, choices=display.choices)
        return exit_code(status)
    devices = find_devices(device)
    display.show_choices(device_choices(devices))
    ended = run_in_foreground(prepared, settings, devices.names, display)
    if ended.error is not None:
        if not display.as_json:
            raise ended.error
        print_error(ended.error.message, ended.error.hint)
    show(run, ended.status, as_json=display.as_json, choices=display.choices)
    return ended.error.exit_code if ended.error else exit_code(ended.status)


def run_on_broker(prepared: Prepared, broker: str, display: Display, *, wait: bool) -> int:
    """Enqueue a job and print its id; with `wait`, follow it to its end.

    Raises:
        BrokerError: Redis cannot be reached.
        UsageError: the output is where workers cannot see it.
    """
    from workers.broker import Broker  # redis: a moment to import, only where it is asked
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
        spec = run.spec
        display.show_choices(
            fleet_choices(prepared.card, precision=spec.precision, token_budget=spec.token_budget)
        )
        queue.register(run)
        reconcile(queue, output, run)
    if wait:
        return follow(output, run, queue, display)
    status = job_status(output, run)
    if prepared.finished:
        status = nothing_to_do(status)
    show(run, status, as_json=display.as_json, choices=display.choices)
    return exit_code(status)
