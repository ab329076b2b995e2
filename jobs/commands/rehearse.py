"""`bei-jobs rehearse`: what another model, or other options, would change, before a backfill."""

from __future__ import annotations

import json
from functools import reduce
from typing import TYPE_CHECKING, Any

import click

from jobs.options import Function, choice, json_option, option, quiet_option
from pipeline.errors import BeiJobsError
from pipeline.spec import InputFormat
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from jobs.display import Display

# Options of `submit` that say what is read, which both sides have.
_SHARED = (
    option("--text-column", help="Default: text, or that of a job file."),
    option("--id-column", help="Of the ids that --qrels names. Default: `id`, if there is one."),
    option("--format", type=choice(InputFormat), help="Of every input file."),
    option("--where", metavar="SQL", help="Sample only these rows."),
    option("--csv-escape", metavar="CHAR", help="As for `submit`."),
)


def _shared(function: Function) -> Function:
    return reduce(lambda decorated, decorator: decorator(decorated), reversed(_SHARED), function)


@click.command(name="rehearse")
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=False)
@click.option("--from", "start", metavar="SIDE", required=True, help="What is in use today.")
@click.option("--to", "end", metavar="SIDE", required=True, help="What may take its place.")
@click.option(
    "--rows",
    type=click.IntRange(min=3),
    default=5000,
    show_default=True,
    help="Texts in the sample; the same ones each time.",
)
@click.option("--queries", metavar="FILE", help="Parquet, JSONL, CSV, or lines of qid<TAB>text.")
@click.option(
    "--qrels",
    metavar="FILE",
    help="Parquet, JSONL, CSV, or TREC's lines: qid 0 document relevance.",
)
@_shared
@option("--device", metavar="NAME[,NAME]", help="cpu, cuda or cuda:N. Default: all GPUs, or cpu.")
@option("--price-per-hour", type=click.FloatRange(min=0), metavar="AMOUNT", help="Of this machine.")
@click.option(
    "--report",
    "page",
    metavar="FILE",
    help="Write a page to look at: HTML, complete in itself.",
)
@json_option
@quiet_option
def command(
    inputs: tuple[str, ...],
    start: str,
    end: str,
    rows: int,
    queries: str | None,
    qrels: str | None,
    device: str | None,
    price_per_hour: float | None,
    page: str | None,
    as_json: bool,
    quiet: bool,
    **shared: str | None,
) -> int:
    """Compute a sample of INPUT on two sides, and say how results, time and bytes would change.

    A SIDE is a model, a job file or an output of bei-jobs, then options of `submit` as KEY=VALUE:
    "BAAI/bge-base-en-v1.5 dimensions=256". Without a model, --to is --from except for these
    options: --to "dimensions=128". Queries have the model's prompt for queries, or that of
    query-prompt=TEXT. Nothing is kept but the page and, in the cache directory, downloads and
    measured speeds.
    """
    from jobs.display import Display
    from jobs.rehearse.lines import lines
    from jobs.rehearse.rehearsal import Options, rehearse
    from jobs.rehearse.report import report
    from jobs.report.write import page_uri
    from workers.settings import load_settings

    uri = None if page is None else page_uri(page)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in shared.items() if v is not None]
    options = Options(
        inputs, start, end, rows, queries, qrels, tuple(words), device, price_per_hour
    )
    display = Display(as_json=as_json, quiet=quiet)
    found = report(rehearse(options, load_settings(), display))
    if uri is not None:
        _write_page(found, uri, display)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for line in lines(found):
            click.echo(line)
    return 0


def _write_page(found: dict[str, Any], uri: str, display: Display) -> None:
    """Write the page; where that fails, what was computed is printed all the same."""
    from jobs.rehearse.page import rehearsal_page
    from jobs.report.write import write_html

    try:
        write_html(rehearsal_page(found), uri)
    except BeiJobsError as problem:
        display.warn(f"--report: {problem.message}")
    else:
        display.say(f"report           {redact(uri)}")
