"""Rows that could not be computed, kept with the reason, in a file that can be submitted again."""

from __future__ import annotations

import pyarrow as pa

from pipeline.output.output import Output, quarantine_name
from pipeline.output.readable import readable
from pipeline.output.run import Run
from pipeline.shards import Shard
from pipeline.store.parquet_bytes import to_parquet
from pipeline.store.uris import redact


def write_quarantine(output: Output, run: Run, shard: Shard, rows: pa.Table) -> str:
    """Write the failed input rows of a shard as Parquet, before the shard is committed.

    The columns are those that the job read, then `bei_input`, `bei_row` (row of that file, from
    0) and `bei_error`. Columns of types that Parquet lacks are left out. Another attempt of the
    same shard overwrites the file with the same rows.

    Returns:
        The name of the object, relative to the output.
    """
    source = pa.array([redact(shard.file.uri)] * rows.num_rows, pa.string())
    table = _storable(rows.append_column("bei_input", source))
    name = quarantine_name(shard.part)
    output.directory.put(name, to_parquet(table))
    return name


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
