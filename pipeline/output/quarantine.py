"""Rows that could not be computed, kept with the reason, in a file that can be submitted again."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipeline.input.reading import read_numbered
from pipeline.output.chunk_rows import has_chunks, row_starts
from pipeline.output.output import Output, quarantine_name
from pipeline.output.part_format import format_of
from pipeline.output.readable import readable
from pipeline.output.run import Run
from pipeline.shards import Shard
from pipeline.store.parquet_bytes import to_parquet
from pipeline.store.uris import redact

# Rows of the input that are read at once.
_READ_ROWS = 1024


def failed_row(rows: pa.RecordBatch, row: int, in_file: int, error: str) -> pa.Table:
    """One input row as the quarantine holds it, but for `bei_input`.

    Args:
        rows: as they were read.
        row: its number in `rows`.
        in_file: its number in the file.
        error: why it has no result.
    """
    # Sliced, because pyarrow cannot filter every type that may be kept.
    columns = pa.table(rows).slice(row, 1)
    columns = columns.append_column("bei_row", pa.array([in_file], pa.int64()))
    return columns.append_column("bei_error", pa.array([error], pa.string()))


def write_quarantine(output: Output, run: Run, shard: Shard, rows: pa.Table) -> str:
    """Write the failed input rows of a shard as Parquet, before the shard is committed.

    The columns are those that the job read, then `bei_input`, `bei_row` (row of that file, from
    0) and `bei_error`. Columns of types that Parquet lacks are left out. An attempt that then
    does not commit the part calls `match_quarantine`.

    Returns:
        The name of the object, relative to the output.
    """
    source = pa.array([redact(shard.file.uri)] * rows.num_rows, pa.string())
    table = _storable(rows.append_column("bei_input", source))
    name = quarantine_name(shard.part)
    output.directory.put(name, to_parquet(table))
    return name


def match_quarantine(output: Output, run: Run, shard: Shard) -> None:
    """Write the quarantine of a shard again, from the part that another attempt committed.

    Of two attempts, other rows may fail, such as those for which a machine had no memory.

    Raises:
        BeiJobsError: the part or the input cannot be read.
    """
    texts = row_errors(output, shard.part).to_pylist()
    errors = {row: error for row, error in enumerate(texts) if error is not None}
    if errors:
        write_quarantine(output, run, shard, _input_rows(run, shard, errors))
    else:
        output.directory.delete(quarantine_name(shard.part))


def row_errors(output: Output, part: str) -> pa.ChunkedArray:
    """Why each input row of a part has no result, [rows] string; null where it has one.

    Raises:
        StorageError: the part cannot be read.
        pa.ArrowException, OSError: it is damaged.
    """
    form = format_of(part)
    with output.directory.open(part) as file:
        chunked = has_chunks(form.schema(file).metadata)
        table = form.read(file, ["error", "chunk"] if chunked else ["error"])
    errors = table["error"]
    return errors.take(pa.array(row_starts(table["chunk"]))) if chunked else errors


def _input_rows(run: Run, shard: Shard, errors: Mapping[int, str]) -> pa.Table:
    """The rows of a shard that failed, by their number in it, read again."""
    rows, first = [], 0
    for _, in_file, batch in read_numbered(shard.file, [shard.cut], run.columns, _READ_ROWS):
        for row in range(batch.num_rows):
            if (error := errors.get(first + row)) is not None:
                rows.append(failed_row(batch, row, int(in_file[row]), error))
        first += batch.num_rows
    return pa.concat_tables(rows)


def _storable(table: pa.Table) -> pa.Table:
    """The columns that Parquet can hold, string views as strings, with U+FFFD for invalid UTF-8.

    Of two columns with one name the last is used: a resubmitted quarantine file may keep columns
    that are named like those added here.
    """
    columns = {}
    for name, stored in zip(table.column_names, table.columns, strict=True):
        column = pa.chunked_array([readable(chunk) for chunk in stored.chunks], stored.type)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        elif pa.types.is_binary_view(column.type):
            column = column.cast(pa.large_binary())
        try:
            to_parquet(pa.table({name: column}))
        except pa.ArrowException:
            continue
        columns[name] = column
    return pa.table(columns)
