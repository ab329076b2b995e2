"""`bei-jobs list`: the known jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobs.options import Several, broker_option, json_option

if TYPE_CHECKING:
    from workers.broker import Broker
    from workers.known_jobs import JobRef

# Of `--state`; "waiting" is "waiting for workers".
_STATES = ("queued", "waiting", "running", "interrupted", "done", "failed", "cancelled", "gone")
_HEADER = ("JOB", "STATE", "ROWS", "STARTED (UTC)", "FINISHED (UTC)", "MODEL", "OUTPUT")


@click.command(name="list")
@broker_option
@click.option(
    "--state", "states", type=Several(click.Choice(_STATES)), help="Only jobs in these states: a,b."
)
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the newest N of them.")
@json_option
def command(
    broker: str | None, states: tuple[str, ...] | None, count: int | None, as_json: bool
) -> None:
    """List the jobs of this machine, and with --broker those of the fleet; the newest first."""
    from itertools import islice

    from jobs.find_job import open_broker
    from jobs.fleet import view_fleet
    from workers.known_jobs import KnownJobs
    from workers.settings import load_settings

    refs = {ref.job: ref for ref in KnownJobs(load_settings().state_dir).all()}
    queue = open_broker(broker)
    of_fleet = {} if queue is None else {ref.job: ref for ref in queue.jobs()}
    refs |= of_fleet
    newest_first = sorted(refs.values(), key=lambda ref: ref.created, reverse=True)
    rows = (_row(ref, queue if ref.job in of_fleet else None) for ref in newest_first)
    wanted = (row for row in rows if states is None or row["state"].split()[0] in states)
    shown = list(islice(wanted, count))
    fleet = None if queue is None else view_fleet(queue, refs)
    if as_json:
        click.echo(json.dumps({"jobs": shown, **({} if fleet is None else fleet.to_json())}))
        return
    for line in _table(shown):
        click.echo(line)
    if not shown:
        click.echo("no such job" if refs else "no known jobs", err=True)
    if fleet is not None:
        click.echo(fleet)


def _row(ref: JobRef, queue: Broker | None) -> dict[str, Any]:
    """What `--json` says of a job; `queue` knows more of one that was sent to it."""
    from jobs.fleet import as_seen_by, view_fleet
    from jobs.summary import summary
    from pipeline.errors import BeiJobsError
    from pipeline.output.output import Output
    from pipeline.output.status import job_status

    try:
        output = Output(ref.output)
        run = output.run(ref.n)
        status = job_status(output, run)
        if queue is not None:
            status = as_seen_by(view_fleet(queue, [run.job]), status)
        return summary(run, status)
    except BeiJobsError as error:
        return {"job": ref.job, "output": ref.output, "state": "gone", "reason": str(error)}


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    table = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield line.rstrip()


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from pipeline.store.uris import redact

    counts = row.get("rows")
    return (
        row["job"],
        row["state"],
        f"{counts['done']:,} of {counts['total']:,}" if counts else "-",
        _minute(row.get("started")),
        _minute(row.get("finished")),
        row["model"]["name"].rstrip("/").rpartition("/")[2] if counts else "-",
        redact(row["output"]),
    )


def _minute(moment: str | None) -> str:
    """An ISO 8601 time as "2026-11-28 18:31"; "-" for none."""
    return moment[:16].replace("T", " ") if moment else "-"
