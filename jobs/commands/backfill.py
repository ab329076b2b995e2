"""`bei-jobs backfill`: run a job file for the slots of a range of time."""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.options import json_option, quiet_option


@click.command(name="backfill")
@click.argument("file", metavar="FILE")
@click.option("--from", "start", metavar="TIME", required=True, help="A day, a time, or `last`.")
@click.option("--to", "end", metavar="TIME", help="A whole day, or a time. Default: now.")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at the same time.",
)
@json_option
@quiet_option
def command(
    file: str, start: str, end: str | None, parallel: int, as_json: bool, quiet: bool
) -> int:
    """Run FILE, a job file with a `cron`, once for each of its slots in a range of time.

    Times without an offset are in the time zone of the file. Slots that are done are not run
    again, so the same command resumes.
    """
    import logging
    from datetime import UTC, datetime

    from jobs.schedules.backfill import backfill, exit_code, slots_of
    from jobs.schedules.run_slot import SlotRunner
    from jobs.schedules.schedule import read_schedule
    from jobs.schedules.scheduler import EXPIRY_LEASES, stopped_by_signals
    from pipeline.errors import Interrupted, UsageError
    from workers.logs import start_logging
    from workers.settings import load_settings

    schedule = read_schedule(file)
    if schedule is None:
        raise UsageError(
            f"{file} has no cron, so it has no slots", hint='add one, such as cron = "0 2 * * *"'
        )
    if parallel > 1 and schedule.one_output:
        raise UsageError(
            f"--parallel {parallel}: all runs of {file} have one output, which takes one at a time",
            hint='give each an output, such as output = "vectors/{slot:%Y-%m-%d}"',
        )
    slots = slots_of(schedule.cron, start, end, datetime.now(UTC))
    start_logging("text", {"jobs": logging.ERROR if quiet else logging.INFO})
    lease_seconds = load_settings().lease_seconds
    runner = SlotRunner(lease_seconds)
    with stopped_by_signals(runner):
        records = backfill(schedule, slots, parallel, runner, EXPIRY_LEASES * lease_seconds)
    if runner.stopping:
        raise Interrupted("interrupted", hint="the same command resumes")
    code = exit_code(records)
    if as_json:
        click.echo(json.dumps({"schedule": schedule.name, "slots": records}))
    elif not quiet or code:
        for record in records:
            click.echo(_line(record))
    return code


def _line(record: dict[str, Any]) -> str:
    code, job = record.get("exit_code"), record.get("job")
    return (
        f"{record['slot']}  {record['state']:<11}  {'' if code is None else code:>3}  "
        f"{job or '':<12}  {record.get('output', '')}  {record.get('error') or ''}"
    ).rstrip()
