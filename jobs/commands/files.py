"""`bei-jobs files`: the parts of the newest finished run."""

from __future__ import annotations

import json

import click

from jobs.options import json_option


@click.command(name="files")
@click.argument("output", metavar="OUTPUT")
@json_option
def command(output: str, as_json: bool) -> None:
    """Print the parts of OUTPUT's newest finished run in input order, one URI a line.

    This list is what readers should read; other files may come and go while jobs run.
    """
    from pipeline.errors import NotFound
    from pipeline.output.manifest import newest, read_parts
    from pipeline.output.output import Output
    from pipeline.store.uris import redact

    place = Output(output)
    found = newest(place)
    if found is None:
        raise NotFound(
            f"{redact(place.uri)} holds no finished job",
            hint=f"`bei-jobs status {redact(output)}` says how it stands",
        )
    run, manifest = found
    uris = [place.directory.uri_of(name) for name in read_parts(place, run)["part"].to_pylist()]
    if as_json:
        click.echo(
            json.dumps({"job": run.job, "output": place.uri, "rows": manifest.rows, "files": uris})
        )
    else:
        click.echo("\n".join(uris))
