"""Arrow IPC: files (.arrow, .feather) and streams (.arrows, and the cache of `datasets`).

Arrow reads one record batch at a time. A local file is mapped, so that an uncompressed batch of
any size uses page cache instead of memory; of a remote file, one batch of the requested columns is
held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.input.compact import compact
from pipeline.input.formats.arrow_footer import read_stored
from pipeline.input.formats.base import (
    ContentError,
    FileSummary,
    Reader,
    content_errors,
    overlaps,
    select_fields,
)
from pipeline.input.formats.sizes import BATCH_BYTES, SizeCounter
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import absolute, is_local

_FILE_MAGIC = b"ARROW1"
_FEATHER_V1_MAGIC = b"FEA1"
_NOT_READABLE = "not a readable Arrow file"


def open_arrow(file: OpenedFile) -> Reader:
    """The reader of an IPC file or of an IPC stream, chosen by the first bytes."""
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    if magic.startswith(_FEATHER_V1_MAGIC):
        raise ContentError("Feather version 1 is not supported: write it again as version 2")
    return ArrowFileReader(file) if magic == _FILE_MAGIC else ArrowStreamReader(file)


def _source(file: OpenedFile) -> Any:
    if is_local(file.uri):
        return pa.memory_map(absolute(file.uri), "r")
    file.seek(0)
    return pa.PythonFile(file, mode="r")


def _options(schema: pa.Schema, columns: Sequence[str]) -> Any:
    """Read the bodies of these columns only; an empty list would be taken as all."""
    return pa.ipc.IpcReadOptions(included_fields=_indices(schema, columns), use_threads=False)


def _indices(schema: pa.Schema, columns: Sequence[str]) -> list[int]:
    """The numbers of columns; of none, that of a narrow one."""
    indices = [i for i, name in enumerate(schema.names) if name in columns]
    return indices or [_cheapest(schema)]


def _cheapest(schema: pa.Schema) -> int:
    """A column of fixed width if there is one: enough for counting rows."""
    for index, field in enumerate(schema):
        if pa.types.is_primitive(field.type):
            return index
    return 0


class ArrowFileReader:
    """One Arrow IPC file; see `Reader`."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        with content_errors(_NOT_READABLE):
            self._schema = pa.ipc.open_file(_source(file)).schema
            self._stored = read_stored(file)
        self._mapped = is_local(file.uri) and not self._stored.compressed

    def _open(self, columns: Sequence[str]) -> Any:
        if self._mapped:  # pyarrow would copy the batch to read some of its columns only
            return pa.ipc.open_file(_source(self._file))
        return pa.ipc.open_file(_source(self._file), options=_options(self._schema, columns))

    def _batch(self, reader: Any, index: int, columns: Sequence[str]) -> pa.RecordBatch:
        batch = reader.get_batch(index)
        return batch.select(_indices(self._schema, columns)) if self._mapped else batch

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Use the headers of the record batches and the bodies of one narrow column."""
        groups = []
        with content_errors(_NOT_READABLE):
            reader = self._open(())
            for index in range(reader.num_record_batches):
                groups.append(reader.get_batch(index).num_rows)
        sizes, wanted = SizeCounter(columns or ()), columns or ()
        for rows, stored in zip(groups, self._stored.batches.tolist(), strict=True):
            # Of all columns together, and a batch may name any entry of a dictionary.
            most = stored + self._stored.dictionaries
            shares = dict.fromkeys(wanted, most // max(1, len(wanted)))
            sizes.add(rows, shares, exact=False, apart=True)
        return FileSummary(
            schema=select_fields(self._schema, columns),
            columns=tuple(self._schema.names),
            rows=sum(groups),
            row_groups=tuple(groups),
            sizes=sizes.sizes(),
        )

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Slice the record batches that hold rows of `cuts`."""
        counter, reader = self._open(()), self._open(schema.names)
        first = 0
        for index in range(reader.num_record_batches):
            with content_errors(f"record batch {index} (from row {first})"):
                rows = counter.get_batch(index).num_rows
                if overlaps(first, rows, cuts):
                    batch = self._batch(reader, index, schema.names)
                    yield from _slices(batch, first, batch_rows)
            first += rows
            if first >= cuts[-1].end:
                return


class ArrowStreamReader:
    """One Arrow IPC stream, which has no footer and is read from its start; see `Reader`."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        with content_errors(_NOT_READABLE):
            self._schema = pa.ipc.open_stream(_source(file)).schema

    def _read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return iter(
            pa.ipc.open_stream(_source(self._file), options=_options(self._schema, columns))
        )

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Read the stream once."""
        groups, sizes = [], SizeCounter(columns or ())
        with content_errors(_NOT_READABLE):
            for batch in self._read(columns or ()):
                groups.append(batch.num_rows)
                read = {name: batch.column(name).nbytes for name in batch.schema.names}
                sizes.add(batch.num_rows, read, apart=True)
        return FileSummary(
            schema=select_fields(self._schema, columns),
            columns=tuple(self._schema.names),
            rows=sum(groups),
            row_groups=tuple(groups),
            sizes=sizes.sizes(),
        )

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Slice the record batches that hold rows of `cuts`."""
        first = 0
        with content_errors("a record batch"):
            for batch in self._read(schema.names):
                if overlaps(first, batch.num_rows, cuts):
                    yield from _slices(batch, first, batch_rows)
                first += batch.num_rows
                if first >= cuts[-1].end:
                    return


def _slices(
    batch: pa.RecordBatch, first: int, batch_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A batch in slices of at most `batch_rows` rows, fewer where they are wide."""
    fitting = BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)
    step = max(1, min(batch_rows, fitting))
    for start in range(0, batch.num_rows, step):
        yield first + start, compact(batch.slice(start, step))
