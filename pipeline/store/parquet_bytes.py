"""Small tables as Parquet bytes: plans, part lists, quarantined rows."""

from __future__ import annotations

import io

import pyarrow as pa


def to_parquet(table: pa.Table) -> bytes:
    """A table as one Parquet file."""
    import pyarrow.parquet as pq  # what only reads the totals of a run does without

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """Read back what `to_parquet` wrote, its schema metadata included.

    Only this thread reads: a pyarrow reader thread that releases the bytes while the interpreter
    shuts down aborts the process. A command as short as `files` hit this in one of five runs.

    Raises:
        pyarrow.ArrowException, OSError: the bytes are not a Parquet file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)
