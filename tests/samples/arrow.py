"""Arrow IPC files and streams as pyarrow, polars and pandas write them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.feather as feather

from samples.parquet import PLAIN, table
from samples.sample import REFUSED, Sample, written
from samples.values import CODES, TEXTS, by_pandas, by_polars


def _file(*batches: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        for batch in batches:
            out.write_table(batch)
    return sink.getvalue()


def _stream(*batches: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    options_ = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options_) as out:
        for batch in batches:
            out.write_table(batch)
    return sink.getvalue()


def _coded(*words: str) -> pa.Table:
    """A batch with a dictionary of its own."""
    return pa.table({"text": pa.array(list(words)).dictionary_encode()})


def arrow_samples() -> Iterator[Sample]:
    """One file for each thing that an Arrow file may be."""
    empty = PLAIN.slice(0, 0)
    pieces = (empty, PLAIN.slice(0, 3), empty, PLAIN.slice(3), empty)
    for codec in (None, "lz4", "zstd"):
        what = f"buffers {codec}" if codec else "buffers not compressed"
        yield Sample(f"file, {what}", "rows.arrow", _file(*pieces, compression=codec))
        yield Sample(f"stream, {what}", "rows.arrows", _stream(*pieces, compression=codec))
    yield Sample("a stream that is named like a file", "rows.arrow", _stream(PLAIN))
    yield Sample("a file without batches", "rows.arrow", _file(empty))
    yield Sample("a stream without batches", "rows.arrows", _stream(empty))
    yield Sample("dictionaries", "rows.ipc", _file(table(c=pa.array(CODES).dictionary_encode())))
    grown = [_coded("a", "b"), _coded("a", "b", "c")]
    delta = _file(*grown, emit_dictionary_deltas=True)
    yield Sample("a file whose dictionary grows", "rows.arrow", delta, REFUSED)
    yield Sample("a stream whose dictionary is replaced", "rows.arrows", _stream(*grown))
    for layout in (pa.large_string(), pa.string_view()):
        texts = pa.table({"text": pa.array(TEXTS, layout)})
        yield Sample(f"the text {layout}", "rows.arrow", _file(texts))
    v2 = written(".feather", lambda path: feather.write_feather(PLAIN, path))
    yield Sample("Feather version 2", "rows.feather", v2)
    v1 = written(".feather", lambda path: feather.write_feather(PLAIN, path, version=1))
    yield Sample("Feather version 1", "rows.feather", v1, REFUSED)
    frame = by_polars()
    for codec in ("uncompressed", "lz4", "zstd"):
        write = partial(frame.write_ipc, compression=codec)
        yield Sample(f"polars, {codec}", "rows.arrow", written(".arrow", write))
    oldest = partial(frame.write_ipc, compat_level=pl.CompatLevel.oldest(), compression="lz4")
    yield Sample("polars, for older readers", "rows.arrow", written(".arrow", oldest))
    panda = by_pandas().drop(columns=["p", "r"])
    yield Sample("pandas", "rows.feather", written(".feather", panda.to_feather), REFUSED)
