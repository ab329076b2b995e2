"""The one JSON object of `submit` and `status`, and the lines a person reads instead."""

from __future__ import annotations

import json
from typing import Any

import click

from pipeline.choice import Choices
from pipeline.output.run import Run
from pipeline.output.status import JobStatus
from pipeline.store.uris import redact

EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED = 0, 1, 3


def summary(run: Run, state: JobStatus, choices: Choices | None = None) -> dict[str, Any]:
    """The machine-readable account of a job; of a submit, with what was chosen for the user."""
    return {
        "job": run.job,
        "output": run.output,
        "run": run.n,
        "state": state.state,
        "shards": {
            "total": state.shards,
            "done": state.shards_done,
            "failed": state.shards_failed,
        },
        "rows": {
            "total": state.rows,
            "done": state.rows_done,
            "computed": state.computed,
            "reused": state.reused,
            "failed": state.failed_rows,
        },
        "tokens": state.tokens,
        "truncated": state.truncated,
        "seconds": round(state.seconds, 3),
        "model": {
            "name": redact(run.spec.model.name),
            "revision": run.spec.model.revision,
            "sha256": run.spec.model.sha256,
        },
        **({"reason": state.reason, "hint": state.hint} if state.reason else {}),
        **({} if choices is None else {"choices": choices_json(choices)}),
    }


def choices_json(choices: Choices) -> dict[str, dict[str, object]]:
    """Option → the value that was chosen for it, and the reason."""
    return {
        name: {"value": choice.value, "reason": choice.reason} for name, choice in choices.items()
    }


def show(run: Run, state: JobStatus, *, as_json: bool, choices: Choices | None = None) -> None:
    """Print the account of a job to stdout."""
    if as_json:
        click.echo(json.dumps(summary(run, state, choices)))
        return
    click.echo(f"job {run.job}  {state.state}  {run.spec.task} with {run.spec.model.name}")
    click.echo(
        f"  rows    {state.rows_done:,} of {state.rows:,}"
        f"  ({state.computed:,} computed, {state.reused:,} reused, {state.failed_rows:,} failed)"
    )
    click.echo(f"  shards  {state.shards_done:,} of {state.shards:,}, {state.shards_failed} failed")
    if state.tokens:
        click.echo(f"  tokens  {state.tokens:,}, {state.truncated:,} rows truncated")
    click.echo(f"  output  {redact(run.output)}")
    if state.reason:
        click.echo(f"  reason  {state.reason}")
    if state.failed_rows:
        click.echo(f"  failed rows and reasons: {redact(run.output)}/_bei/quarantine/")


def exit_code(state: JobStatus) -> int:
    """0 done, 1 failed or cancelled, 3 done with quarantined rows."""
    if state.state in ("failed", "cancelled"):
        return EXIT_FAILED
    return EXIT_QUARANTINED if state.failed_rows else EXIT_DONE
