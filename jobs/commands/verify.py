"""`bei-jobs verify`: check that an output is complete and valid."""

from __future__ import annotations

import json

import click

from jobs.options import json_option


@click.command(name="verify")
@click.argument("output", metavar="OUTPUT")
@json_option
def command(output: str, as_json: bool) -> int:
    """Check all of OUTPUT: every row exactly once, checksums, schema, provenance, finite values."""
    from pipeline.output.output import Output
    from pipeline.output.verify import verify

    report = verify(Output(output))
    if as_json:
        result = {
            "ok": report.ok,
            "job": report.job,
            "rows": report.rows,
            "parts": report.parts,
            "precisions": report.precisions,
            "problems": report.problems,
        }
        click.echo(json.dumps(result))
    elif report.ok:
        click.echo(
            f"ok: {_count(report.rows, 'row')} in {_count(report.parts, 'part')}, each exactly once"
        )
    else:
        click.echo(f"{_count(len(report.problems), 'problem')} in {_count(report.parts, 'part')}:")
        for problem in report.problems:
            click.echo(f"  {problem}")
        click.echo("  → delete the parts named above and run the job's submit command again")
    return 0 if report.ok else 1


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
