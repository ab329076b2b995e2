"""`bei-jobs schedule`: run job files at the times of their `cron`, list and export them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from jobs.options import json_option

if TYPE_CHECKING:
    from datetime import datetime

    from jobs.schedules.schedule import Schedule

_TARGETS = ("crontab", "systemd", "kubernetes", "airflow")

directory_argument = click.argument("directory", metavar="DIR")


@click.group(name="schedule")
def command() -> None:
    """Run the job files of DIR (a directory or a URI) that have a `cron`."""


@command.command(name="run")
@directory_argument
def run(directory: str) -> int:
    """Run the schedules in DIR: each slot once, and missed ones are caught up.

    Any number of these may run, on any machines. SIGTERM and Ctrl-C stop jobs between two batches.
    """
    import logging

    from jobs.schedules.schedule import read_schedules
    from jobs.schedules.scheduler import Scheduler, stopped_by_signals
    from workers.logs import start_logging
    from workers.settings import load_settings

    start_logging("text", {"jobs": logging.INFO, "pipeline": logging.INFO})
    read_schedules(directory)  # one that cannot be read is refused at once
    scheduler = Scheduler(directory, load_settings().lease_seconds)
    with stopped_by_signals(scheduler.runner):
        scheduler.run()
    return 0


@command.command(name="list")
@directory_argument
@json_option
def list_(directory: str, as_json: bool) -> None:
    """List the schedules in DIR with their next and last runs."""
    from datetime import UTC, datetime

    from jobs.schedules.schedule import read_schedules

    listing = read_schedules(directory)
    rows = [_row(schedule, datetime.now(UTC)) for schedule in listing.schedules]
    rows += [
        {"file": name, "error": error.message, "hint": error.hint}
        for name, error in listing.refused.items()
    ]
    if as_json:
        click.echo(json.dumps({"schedules": rows}))
        return
    for row in rows:
        click.echo(_line(row))
    for name in listing.plain:
        click.echo(f"{name}: no cron, so nothing runs it", err=True)
    if not rows:
        click.echo("no schedules", err=True)


@command.command(name="export")
@directory_argument
@click.option(
    "--to",
    "target",
    type=click.Choice(_TARGETS),
    required=True,
    help="The scheduler that runs them.",
)
def export_(directory: str, target: Any) -> int:
    """Print the schedules in DIR as another scheduler reads them."""
    from datetime import UTC, datetime

    from jobs.cli import print_error
    from jobs.schedules.export import export
    from jobs.schedules.schedule import read_schedules

    listing = read_schedules(directory)
    click.echo(export(listing.schedules, target, datetime.now(UTC)), nl=False)
    for error in listing.refused.values():
        print_error(error.message, error.hint)
    return 1 if listing.refused else 0


def _row(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """A schedule, with its next and last runs; in place of these, why they are not known."""
    from jobs.schedules.scheduler import EXPIRY_LEASES
    from jobs.schedules.slots import Slots, iso
    from pipeline.errors import StorageError
    from workers.settings import load_settings

    slots = Slots(schedule, EXPIRY_LEASES * load_settings().lease_seconds)
    row = {
        "name": schedule.name,
        "file": schedule.where,
        "cron": schedule.cron.expression,
        "timezone": schedule.cron.timezone,
        "catch_up": schedule.catch_up,
        "output": schedule.output,
        "next": iso(next(schedule.cron.after(now))),
    }
    try:
        attempts = slots.attempts()
        last = max(attempts, default=None)
        return {**row, "last": None if last is None else slots.report(last, attempts[last])}
    except StorageError as error:
        return {**row, "error": error.message, "hint": error.hint}


def _line(row: dict[str, Any]) -> str:
    if "cron" not in row:
        return f"{row['file']:<20}  refused  {row['error']} ({row['hint']})"
    head = f"{row['name']:<20}  {row['cron']} {row['timezone']}  next {row['next']}"
    if "error" in row:
        return f"{head}  last run unknown: {row['error']}"
    last = row["last"]
    if last is None:
        return f"{head}  no run yet"
    code = f", exit code {last['exit_code']}" if "exit_code" in last else ""
    reason = f": {last['error']}" if last.get("error") else ""
    return f"{head}  last {last['slot']} {last['state']}{code}{reason}"
