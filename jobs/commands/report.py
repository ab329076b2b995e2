"""`bei-jobs report`: a page about an output, for people."""

from __future__ import annotations

import click

from jobs.options import json_option, option


@click.command(name="report")
@click.argument("output", metavar="OUTPUT")
@click.argument("file", metavar="[FILE]", required=False)
@option("--price-per-hour", type=click.FloatRange(min=0), metavar="AMOUNT", help="Of one device.")
@json_option
def command(output: str, file: str | None, price_per_hour: float | None, as_json: bool) -> None:
    """Write a page about OUTPUT to FILE: what ran, how fast, what became of the rows, a map.

    FILE is a path or URI that ends with .html, by default the output's name in the current
    directory. The page is about the newest run, finished or not, and needs no network. Large
    outputs are sampled, and the page says how much was read.
    """
    import json

    from jobs.report.gather import gather
    from jobs.report.write import default_file, page_uri, write_page
    from pipeline.output.output import find_run
    from pipeline.store.uris import redact

    found, run = find_run(output)
    uri = page_uri(file or default_file(found.uri))
    report = gather(found, run, price_per_hour=price_per_hour)
    write_page(report, uri)
    if as_json:
        click.echo(json.dumps({**report, "report": redact(uri)}))
    else:
        click.echo(f"{redact(uri)}: run {run.n} of {redact(found.uri)}, {report['state']}")
