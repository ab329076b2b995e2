"""Rows → Parquet: one file, or a directory of files that say how many there are."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StorageError
from pipeline.export.columns import cast, common_type, fitting_schema
from pipeline.export.destination import Destination, file_name
from pipeline.export.rows import RowReader, Rows
from pipeline.store.new_file import new_directory, new_file
from pipeline.store.uris import redact

_COMPRESSION = "zstd"


def write_file(rows: Rows, dest: Destination, *, overwrite: bool) -> None:
    """Write all rows to one file."""
    schema = parquet_schema(rows.schema, dest)
    size = rows.manifest.bytes
    with new_file(dest.uri, overwrite=overwrite, max_bytes=size) as file:
        _write(file, RowReader(rows.tables()), rows.manifest.output_rows, schema, dest)


def write_directory(
    rows: Rows, dest: Destination, rows_per_file: int, *, overwrite: bool
) -> list[str]:
    """Write all rows to files of `rows_per_file` rows; the last one may have fewer.

    Returns:
        The names of the files, in the order of the rows.
    """
    schema = parquet_schema(rows.schema, dest)
    with new_directory(dest.uri, overwrite=overwrite) as folder:
        return list(write_files(rows, schema, dest, folder, rows_per_file, file_name))


def write_files(
    rows: Rows,
    schema: pa.Schema,
    dest: Destination,
    folder: str,
    rows_per_file: int,
    name_of: Callable[[int, int], str],
) -> dict[str, int]:
    """Write all rows to files of `rows_per_file` rows in a folder.

    Returns:
        The name of each file → its rows, in their order.
    """
    total, reader = rows.manifest.output_rows, RowReader(rows.tables())
    size, files = rows.row_bytes * rows_per_file, -(-total // rows_per_file)
    written: dict[str, int] = {}
    for index in range(files):
        name, count = name_of(index, files), min(rows_per_file, total - index * rows_per_file)
        with new_file(f"{folder}/{name}", overwrite=False, max_bytes=size) as file:
            _write(file, reader, count, schema, dest)
        written[name] = count
    return written


def parquet_schema(schema: pa.Schema, dest: Destination) -> pa.Schema:
    """The columns as Parquet has them.

    Raises:
        UsageError: Parquet has no type for one of them.
    """
    return fitting_schema(schema, dest, common_type, _check)


def parquet_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a file with these columns."""
    return pq.ParquetWriter(file, schema, compression=_COMPRESSION)


def _write(
    file: BinaryIO, reader: RowReader, rows: int, schema: pa.Schema, dest: Destination
) -> None:
    with parquet_writer(file, schema) as writer:
        while rows:
            table = reader.take(rows)
            if table is None:
                raise StorageError(f"{redact(dest.uri)}: {rows} rows are missing")
            writer.write_table(cast(table, schema, dest), row_group_size=len(table))
            rows -= len(table)


def _check(schema: pa.Schema) -> None:
    with parquet_writer(io.BytesIO(), schema):
        pass
