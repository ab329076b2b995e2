"""`bei-jobs files`: the parts of the newest finished run."""

from __future__ import annotations

import json

import click

from jobs.options import json_option


@click.command(name="files")
@click.argument("output", metavar="OUTPUT")
@json_option
def command(output: str, as_json: bool) -> None:
    """Print the parts of OUTPUT's newest finished run in input order, one URI per line.

    Readers should use this list: other files may come and go while jobs run.
    """
    from pipeline.output.manifest import read_parts, require_finished
    from pipeline.output.output import Output

    store = Output(output)
    run, manifest = require_finished(store)
    uris = [store.directory.uri_of(name) for name in read_parts(store, run)["part"].to_pylist()]
    if as_json:
        chunks = {"chunks": manifest.chunks} if manifest.chunks else {}
        report = {"job": run.job, "output": store.uri, "rows": manifest.rows, **chunks}
        click.echo(json.dumps({**report, "files": uris}))
    else:
        click.echo("\n".join(uris))
