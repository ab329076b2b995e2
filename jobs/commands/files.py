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
    from pipeline.errors import NotFound
    from pipeline.output.manifest import newest_finished, read_parts
    from pipeline.output.output import Output
    from pipeline.store.uris import redact

    store = Output(output)
    newest_run = newest_finished(store)
    if newest_run is None:
        raise NotFound(
            f"{redact(store.uri)} holds no finished job",
            hint=f"see its status with `bei-jobs status {redact(output)}`",
        )
    run, manifest = newest_run
    uris = [store.directory.uri_of(name) for name in read_parts(store, run)["part"].to_pylist()]
    if as_json:
        click.echo(
            json.dumps({"job": run.job, "output": store.uri, "rows": manifest.rows, "files": uris})
        )
    else:
        click.echo("\n".join(uris))
