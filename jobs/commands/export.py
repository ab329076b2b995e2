"""`bei-jobs export`: the rows of an output in the files that other programs read."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from jobs.options import choice, json_option
from jobs.summary import EXIT_DONE, EXIT_QUARANTINED
from pipeline.export.destination import ExportFormat
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from pipeline.export.export import Exported

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    size = re.fullmatch(r"(\d+) ?([KMG]?I?)B?", value.upper())
    if size is None or size[2] not in _UNITS or not int(size[1]):
        raise click.BadParameter(f"{value!r} is not a size: give one such as 256MB or 1GiB")
    return int(size[1]) * _UNITS[size[2]]


@click.command(name="export")
@click.argument("output", metavar="OUTPUT")
@click.argument("dest", metavar="DEST")
@click.option("--to", type=choice(ExportFormat), help="What DEST is, where its name does not say.")
@click.option(
    "--file-size",
    metavar="SIZE",
    callback=_bytes,
    help="Of each file of a directory or a Delta table, before compression.  [default: 256MB]",
)
@click.option(
    "--rows-per-file", type=click.IntRange(min=1), help="Of these files, instead of a size."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@json_option
def command(
    output: str,
    dest: str,
    to: ExportFormat | None,
    file_size: int | None,
    rows_per_file: int | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Write the rows of OUTPUT's newest finished run to DEST, in input order.

    DEST is a path or URI, and its ending says what is written: out.parquet one file; out/ a
    directory of Parquet files; out.npy an array of the vectors, with out.ids.parquet for the other
    columns; out.lance a Lance dataset; out.delta a Delta table. Rows with an error have no vector:
    they are null, and left out of out.npy.
    """
    from pipeline.export.destination import find_destination
    from pipeline.export.export import FileSize, export
    from pipeline.output.output import Output
    from workers.stop_signals import stoppable

    place, store = find_destination(dest, to), Output(output)
    with stoppable(lambda: None) as stop:
        done = export(
            store,
            place,
            FileSize(rows_per_file, file_size),
            overwrite=overwrite,
            stopped=stop.is_set,
        )
    if as_json:
        report = {"output": store.uri, "to": place.format, "dest": place.uri, **asdict(done)}
        click.echo(json.dumps(report))
    else:
        _print(done, place.uri, store.uri)
    return EXIT_QUARANTINED if done.left_out else EXIT_DONE


def _print(done: Exported, dest: str, output: str) -> None:
    others = f", in {_count(len(done.files), 'file')}" if done.files[1:] else ""
    click.echo(f"{_count(done.rows, 'row')} of run {done.run} in {redact(dest)}{others}")
    for name, kind in done.converted.items():
        click.echo(f"  the column {name} is {kind} there")
    if done.left_out:
        click.echo(
            f"  left out: {_count(done.left_out, 'row')} with an error; the reasons are in "
            f"{redact(output)}/_bei/quarantine/"
        )
    if done.unfinished_run:
        click.echo(f"  run {done.unfinished_run} is not finished: none of its rows are there")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
