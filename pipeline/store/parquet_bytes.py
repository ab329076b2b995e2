"""Small tables as Parquet bytes: plans, lists of parts, quarantined rows."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def to_parquet(table: pa.Table) -> bytes:
    """A table as one Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """Read back what `to_parquet` wrote, its schema metadata included.

    In this thread alone: a reader thread of pyarrow's that still lets go of our bytes while the
    interpreter ends aborts the process, which a command as short as `files` did in one of five
    runs.

    Raises:
        pyarrow.ArrowException, OSError: the bytes are no Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)
