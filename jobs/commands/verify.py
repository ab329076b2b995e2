"""`bei-jobs verify`: prove that an output is complete and sound."""

from __future__ import annotations

import json

import click

from jobs.options import json_option


@click.command(name="verify")
@click.argument("output", metavar="OUTPUT")
@json_option
def command(output: str, as_json: bool) -> int:
    """Read all of OUTPUT: every input row once, checksums, schema, provenance, finite values."""
    from pipeline.output.output import Output
    from pipeline.output.verify import verify

    verdict = verify(Output(output))
    if as_json:
        result = {
            "ok": verdict.ok,
            "job": verdict.job,
            "rows": verdict.rows,
            "parts": verdict.parts,
            "precisions": verdict.precisions,
            "problems": verdict.problems,
        }
        click.echo(json.dumps(result))
    elif verdict.ok:
        click.echo(f"ok: {verdict.rows:,} rows in {verdict.parts:,} parts, each exactly once")
    else:
        click.echo(f"{len(verdict.problems)} problems in {verdict.parts:,} parts:")
        for problem in verdict.problems:
            click.echo(f"  {problem}")
        click.echo("  → delete the parts named here and run the job's submit command again")
    return 0 if verdict.ok else 1
