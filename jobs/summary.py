"""The JSON object that commands print about a job, and the lines that a person reads instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from jobs.fleet import FleetView
from jobs.record import canary_json, record_json, record_lines
from pipeline.choice import Choices
from pipeline.input.ignored import IgnoredFiles
from pipeline.output.run import Run
from pipeline.output.status import JobStatus
from pipeline.store.uris import redact

EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED = 0, 1, 3


def summary(
    run: Run,
    status: JobStatus,
    choices: Choices | None = None,
    fleet: FleetView | None = None,
    ignored: IgnoredFiles | None = None,
) -> dict[str, Any]:
    """The status of a job as JSON.

    Args:
        run: of the job.
        status: of the run.
        choices: what a submit chose for the user.
        fleet: the workers that are connected, where a broker was given.
        ignored: the files that a submit found beside its inputs.
    """
    return {
        "job": run.job,
        "output": run.output,
        "run": run.n,
        "state": status.state,
        "shards": {
            "total": status.shards,
            "done": status.shards_done,
            "failed": status.shards_failed,
        },
        "rows": {
            "total": status.rows,
            "done": status.rows_done,
            "computed": status.computed,
            "reused": status.reused,
            "deduplicated": status.deduplicated,
            "failed": status.failed_rows,
        },
        "tokens": status.tokens,
        "truncated": status.truncated,
        **({"tokens_cut": status.cut} if status.truncated and status.cut is not None else {}),
        **({"chunks": status.chunks} if status.chunks else {}),
        "seconds": round(status.seconds, 3),
        "model": {
            "name": redact(run.spec.model.name),
            "revision": run.spec.model.revision,
            "sha256": run.spec.model.sha256,
        },
        **record_json(run, status, ignored),
        "canaries": [canary_json(canary) for canary in status.canaries],
        **({"kept": status.kept} if status.kept else {}),
        **({"reason": status.reason, "hint": status.hint} if status.reason else {}),
        **({} if choices is None else {"choices": choices_json(choices)}),
        **({} if fleet is None else fleet.to_json()),
    }


def choices_json(choices: Choices) -> dict[str, dict[str, object]]:
    """Option → the value that was chosen for it, and why."""
    return {
        name: {"value": choice.value, "reason": choice.reason} for name, choice in choices.items()
    }


def print_summary(
    run: Run,
    status: JobStatus,
    *,
    as_json: bool,
    choices: Choices | None = None,
    fleet: FleetView | None = None,
    ignored: IgnoredFiles | None = None,
) -> None:
    """Print the status of a job to stdout, as JSON or as a few lines; see `summary`."""
    if as_json:
        click.echo(json.dumps(summary(run, status, choices, fleet, ignored)))
        return
    click.echo(f"job {run.job}  {status.state}  {run.spec.task} with {run.spec.model.name}")
    click.echo(
        f"  rows    {status.rows_done:,} of {status.rows:,}  ({', '.join(_outcomes(status))})"
    )
    click.echo(
        f"  shards  {status.shards_done:,} of {status.shards:,}, {status.shards_failed} failed"
    )
    if status.kept:
        click.echo(f"  kept    {status.kept:,} more rows are computed, of shards that are not done")
    if status.tokens:
        click.echo(f"  tokens  {status.tokens:,}, {_truncated(status)}")
    if status.chunks:
        click.echo(f"  chunks  {status.chunks:,} rows in the output, one for each chunk")
    click.echo(f"  output  {redact(run.output)}")
    for line in record_lines(run, status):
        click.echo(line)
    if ignored:
        click.echo(f"  ignored {ignored}")
    if status.state == "interrupted":
        click.echo("  resume  run the same command again: committed parts are kept")
    if fleet is not None and not status.final:
        click.echo(f"  workers {fleet}")
        for line in fleet.refusals():
            click.echo(f"  stepped back  {line}")
    if status.reason:
        click.echo(f"  reason  {status.reason}")
    if status.failed_rows:
        click.echo(f"  failed rows and reasons: {redact(run.output)}/_bei/quarantine/")


def _truncated(status: JobStatus) -> str:
    rows = f"{status.truncated:,} rows truncated"
    return f"{rows}: {status.cut:,} tokens cut off" if status.truncated and status.cut else rows


def _outcomes(status: JobStatus) -> Iterator[str]:
    yield f"{status.computed:,} computed"
    yield f"{status.reused:,} reused"
    if status.deduplicated:
        yield f"{status.deduplicated:,} duplicates"
    yield f"{status.failed_rows:,} failed"


def exit_code(status: JobStatus) -> int:
    """0 done, 1 failed or cancelled, 3 done with quarantined rows or skipped files."""
    if status.state in ("failed", "cancelled"):
        return EXIT_FAILED
    return EXIT_QUARANTINED if status.failed_rows or status.skipped else EXIT_DONE
