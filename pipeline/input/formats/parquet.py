"""Parquet: row groups streamed page by page, so that their size does not matter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.input.compact import compact
from pipeline.input.formats.base import FileSummary, content_errors, overlaps, select_fields
from pipeline.input.formats.parquet_dictionaries import dictionaries, read_strings
from pipeline.input.formats.parquet_footer import check_columns, read_footer
from pipeline.input.formats.parquet_sizes import leaf_columns, parquet_sizes
from pipeline.input.formats.sizes import BATCH_BYTES
from pipeline.input.types import EXACT
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import is_local

# A column chunk is read through a buffer of this size instead of whole: a reader needs about
# (buffer + one page) per column, whatever the row group. Remote buffers are larger because a
# request to a store costs more.
_BUFFER_BYTES = 1 << 20
_REMOTE_BUFFER_BYTES = 8 << 20
# Rows decoded at once: few, since the footer does not say where in a row group the wide ones are.
# Of narrow rows, 256 at once are read half as fast as all, and 64 a sixth as fast.
_DECODED_ROWS = 256


class ParquetReader:
    """One Parquet file; see `Reader`."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        with content_errors("not a readable Parquet file"):
            metadata, self._is_signed = read_footer(file)
            self._parquet = pq.ParquetFile(
                pa.PythonFile(file, mode="r"),
                metadata=metadata,
                buffer_size=_BUFFER_BYTES if is_local(file.uri) else _REMOTE_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
                # Spark's and Hive's timestamps: in nanoseconds, those after 2262 would wrap around.
                coerce_int96_timestamp_unit="us",
            )
            self.schema: pa.Schema = self._parquet.schema_arrow  # with the ids of fields
        self._groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Use the footer, and a few rows of columns in which it may hide much."""
        check_columns(self._parquet, self._is_signed, columns)
        return FileSummary(
            schema=select_fields(self.schema, columns),
            columns=tuple(self.schema.names),
            rows=sum(self._groups),
            row_groups=tuple(self._groups),
            large_from=self._large_from(columns),
            sizes=parquet_sizes(self._file, self._parquet, columns or ()),
        )

    def _large_from(self, columns: Sequence[str] | None) -> dict[str, int]:
        """By the statistics of row groups, where there are some."""
        found: dict[str, int] = {}
        metadata = self._parquet.metadata
        for index, column in enumerate(self._parquet.schema):
            if column.path not in (self.schema.names if columns is None else columns):
                continue
            if column.physical_type != "INT64" or column.logical_type.type not in ("NONE", "INT"):
                continue
            for group, first in enumerate(np.cumsum([0, *self._groups])[:-1].tolist()):
                known = metadata.row_group(group).column(index).statistics
                if known is not None and known.has_min_max and max(-known.min, known.max) > EXACT:
                    found.setdefault(column.path, first)
        return found

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read only row groups that hold rows of `cuts`, and each of them once."""
        first = 0
        for index, rows in enumerate(self._groups):
            if overlaps(first, rows, cuts):
                yield from self._group(index, first, cuts[-1], schema.names, batch_rows)
            first += rows

    def _group(
        self, index: int, first: int, last: Cut, columns: list[str], batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        where = f"row group {index} (rows {first}-{first + self._groups[index] - 1})"
        done = first
        with content_errors(where):
            try:
                for batch in _joined(self._batches(index, columns, batch_rows), batch_rows):
                    yield done, batch
                    done += batch.num_rows
                    if done >= last.end:
                        return
            except pa.ArrowInvalid as error:
                if not (names := dictionaries(self.schema, columns)) or "UTF8" not in str(error):
                    raise
                for row, batch in self._with_strings(index, first, columns, names, batch_rows):
                    if done <= row < last.end:
                        yield row, batch

    def _batches(self, index: int, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        fitting = BATCH_BYTES * self._groups[index] // max(1, self._stored(index, columns))
        even = batch_rows // math.ceil(batch_rows / _DECODED_ROWS)
        batches = self._parquet.iter_batches(
            max(1, min(even, fitting)),
            row_groups=[index],
            columns=columns,
            use_threads=False,
        )
        return map(compact, batches)

    def _with_strings(
        self, index: int, first: int, columns: list[str], names: list[str], batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a row group, strings in place of the dictionaries `names`."""
        strings = read_strings(self._file, index, names)
        others = [name for name in columns if name not in names]
        batches = (
            self._batches(index, others, batch_rows) if others else strings.to_batches(batch_rows)
        )
        offset = 0
        for batch in batches:
            some = strings.slice(offset, batch.num_rows).combine_chunks()
            arrays = [
                some[name].chunk(0) if name in names else batch.column(name) for name in columns
            ]
            yield first + offset, pa.RecordBatch.from_arrays(arrays, columns)
            offset += batch.num_rows

    def _stored(self, index: int, columns: list[str]) -> int:
        """Bytes of some columns in a row group."""
        group = self._parquet.metadata.row_group(index)
        leaves = leaf_columns(self.schema, columns)
        return sum(
            group.column(number).total_uncompressed_size
            for numbers in leaves.values()
            for number in numbers
        )


def _joined(batches: Iterable[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of up to `batch_rows` rows, fewer where they are wide."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if held and (rows + batch.num_rows > batch_rows or size + batch.nbytes > BATCH_BYTES):
            yield pa.concat_batches(held)
            held, rows, size = [], 0, 0
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if held:
        yield pa.concat_batches(held)
