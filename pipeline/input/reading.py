"""Rows of an input file → record batches of the planned schema, cut at shard boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.discovery import ListedFile
from pipeline.input.file_format import TEXT_FORMATS
from pipeline.input.formats import ContentError, FileSummary, Reader, open_reader
from pipeline.input.formats.content import checked_compression
from pipeline.input.formats.sizes import BATCH_BYTES, SizeCounter, Sizes
from pipeline.input.planned_columns import column_of_path, planned_columns
from pipeline.input.planned_file import check_version, open_planned, reader_of
from pipeline.input.table_file import TableReader, deleted_rows
from pipeline.input.where import selected_by, where_columns
from pipeline.packing import Int64Array
from pipeline.shards import Cut, InputFile
from pipeline.store.directory import OpenedFile
from pipeline.store.signs import signs
from pipeline.store.uris import redact

# Rows whose columns of an expression are read at once.
_SELECTED_AT_ONCE = 16_384

# Rows that are measured at once.
_MEASURED_AT_ONCE = 1024


def inspect(listed: ListedFile, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
    """Count the rows of a file and describe its columns: by its footer, or one pass over text.

    Args:
        listed: the file.
        columns: the columns whose types are needed; missing ones are skipped; None for all.
        rows_per_shard: text formats record the byte offset of every `rows_per_shard`-th row.

    Raises:
        InputError: empty, corrupt, truncated or not UTF-8.
        InputChanged: it changed since it was listed.
        StorageError: it cannot be opened.
    """
    if not listed.size:
        if listed.format in TEXT_FORMATS:
            return FileSummary(pa.schema([]), (), 0)
        raise InputError(
            f"{redact(listed.uri)} is an empty file", hint="write it again or leave it out"
        )
    with open_planned(listed) as file:
        if listed.format in TEXT_FORMATS:
            compression = checked_compression(file, listed.format)
            reader = open_reader(file, listed.format, compression, listed.csv_escape)
            summary = replace(reader.summarize(columns, rows_per_shard), compression=compression)
        else:
            summary = _of_footer(listed, file, columns, rows_per_shard)
        check_version(listed, file)
        return summary


def _of_footer(
    listed: ListedFile, file: OpenedFile, columns: Sequence[str] | None, rows_per_shard: int
) -> FileSummary:
    try:
        if listed.table is not None:
            return listed.table.summarize(file, rows_per_shard)
        return open_reader(file, listed.format, "").summarize(columns, rows_per_shard)
    except ContentError:
        checked_compression(file, listed.format)  # what it is instead, which says more
        raise


def measure(listed: ListedFile, cuts: Sequence[Cut], schema: pa.Schema) -> list[Sizes]:
    """Read the rows of some cuts to know the sizes of their columns.

    Args:
        listed: the file.
        cuts: of this file, in order.
        schema: the columns, with the types of the file.

    Raises:
        InputChanged, InputError, StorageError: as of `inspect`.
    """
    counters = [SizeCounter(schema.names) for _ in cuts]
    with open_planned(listed) as file:
        reader = reader_of(file, listed, listed.table.text if listed.table else "")
        for first, batch in reader.batches(cuts, schema, _MEASURED_AT_ONCE):
            for index, _, rows in _split_at_cuts(cuts, first, batch):
                for piece in _narrow(rows):
                    sizes = {name: piece.column(name).nbytes for name in schema.names}
                    counters[index].add(piece.num_rows, sizes)
        check_version(listed, file)
    return [counter.sizes() for counter in counters]


def read(
    file: InputFile, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """`read_numbered` without the numbers."""
    for index, _, batch in read_numbered(file, cuts, schema, batch_rows):
        yield index, batch


def read_numbered(
    file: InputFile, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
) -> Iterator[tuple[int, Int64Array, pa.RecordBatch]]:
    """Stream the rows of consecutive shards of one file through one open reader.

    The version is compared after opening, and after the last row of each cut before the next cut
    begins or the iterator ends. So a cut has been read completely only when the next one begins,
    or when the iterator ends without an error. Strings are not checked: invalid UTF-8 is an error
    of its row.

    Args:
        file: as planned.
        cuts: of this file, in order; rows between them are skipped.
        schema: the planned columns, among them those of `file.where`; hive keys come from the path.
        batch_rows: the largest number of rows in a batch; of wide ones there are fewer.

    Yields:
        (index into `cuts`, [rows] their numbers in the file, batch with exactly `schema`); no batch
        spans two cuts.

    Raises:
        InputChanged: the file is not the planned version, or is gone.
        InputError: the content cannot be read or cast; the message names the rows.
        StorageError: the store failed.
    """
    if not cuts:
        return
    stored = pa.schema([f for f in schema if f.name not in dict(file.partition)])
    with open_planned(file) as opened:
        reader = reader_of(opened, file, file.table)
        last, unread = 0, [cut.rows for cut in cuts]
        ranges = _with_selected_rows(reader, file, cuts, schema) if file.where else cuts
        for first, batch in reader.batches(ranges, stored, batch_rows):
            signs.give()  # also of rows that are not selected
            for index, row, rows in _split_at_cuts(cuts, first, batch):
                numbers, planned = _selected(planned_columns(rows, row, schema, file), row, file)
                if not unread[index] or not len(numbers):
                    continue
                if index != last:
                    check_version(file, opened)
                    last = index
                numbers = numbers[: unread[index]]
                unread[index] -= len(numbers)
                for rows in _narrow(planned.slice(0, len(numbers))):
                    yield index, numbers[: rows.num_rows], rows
                    numbers = numbers[rows.num_rows :]
        check_version(file, opened)


def selected_rows(file: InputFile, cuts: Sequence[Cut], schema: pa.Schema) -> list[int]:
    """How many rows of each cut are there and `file.where` selects; only its columns are read.

    Raises:
        InputChanged, InputError, StorageError: as of `read_numbered`.
    """
    if not file.where:
        gone = deleted_rows(file.deleted)
        ends = np.searchsorted(gone, [(cut.first_row, cut.end) for cut in cuts])
        return [cut.rows - int(e - s) for cut, (s, e) in zip(cuts, ends, strict=True)]
    needed = pa.schema([schema.field(name) for name in where_columns(file.where)])
    if not file.deleted and dict(file.partition).keys() >= set(needed.names):
        values = [column_of_path(file, field, 1) for field in needed]
        row = pa.RecordBatch.from_arrays(values, schema=needed)
        try:
            every = selected_by(file.where, row).all()
        except ContentError as error:
            raise InputError(f"{redact(file.uri)}: {error}", hint="rename the directory") from error
        return [cut.rows if every else 0 for cut in cuts]
    counts = [0] * len(cuts)
    for index, batch in read(file, cuts, needed, _SELECTED_AT_ONCE):
        counts[index] += batch.num_rows
    return counts


def _with_selected_rows(
    reader: Reader | TableReader, file: InputFile, cuts: Sequence[Cut], schema: pa.Schema
) -> Sequence[Cut]:
    """The ranges that hold all selected rows, found by reading only what selects them.

    A row group outside of them is not read further. Text is parsed as a whole, so it is read once.
    """
    needed = pa.schema([schema.field(name) for name in where_columns(file.where)])
    stored = pa.schema([f for f in needed if f.name not in dict(file.partition)])
    if file.format in TEXT_FORMATS or not stored.names or set(needed.names) >= set(schema.names):
        return cuts
    ranges = []
    for first, batch in reader.batches(cuts, stored, _SELECTED_AT_ONCE):
        signs.give()
        for _, row, rows in _split_at_cuts(cuts, first, batch):
            numbers, _ = _selected(planned_columns(rows, row, needed, file), row, file)
            if len(numbers):
                ranges.append(Cut(int(numbers[0]), int(numbers[-1] - numbers[0]) + 1))
    return ranges or cuts


def _selected(
    batch: pa.RecordBatch, row: int, file: InputFile
) -> tuple[Int64Array, pa.RecordBatch]:
    """The rows that are there and that `file.where` selects, with their numbers.

    `row` is the batch's first.
    """
    numbers: Int64Array = np.arange(row, row + batch.num_rows)
    if file.deleted:
        deleted = deleted_rows(file.deleted)
        start, stop = np.searchsorted(deleted, [row, row + batch.num_rows])
        there = np.ones(batch.num_rows, dtype=np.bool_)
        there[deleted[start:stop] - row] = False
        numbers, batch = _chosen(numbers, batch, there)
    if file.where:
        numbers, batch = _chosen(numbers, batch, selected_by(file.where, batch))
    return numbers, batch


def _chosen(
    numbers: Int64Array, batch: pa.RecordBatch, chosen: npt.NDArray[np.bool_]
) -> tuple[Int64Array, pa.RecordBatch]:
    if chosen.all():
        return numbers, batch
    try:
        return numbers[chosen], batch.filter(pa.array(chosen))
    except NotImplementedError:  # pyarrow cannot filter every type that may be kept
        bounds = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)
        slices = [batch.slice(start, stop - start) for start, stop in bounds.tolist()]
        table = pa.Table.from_batches(slices, batch.schema).combine_chunks()
        return numbers[chosen], (table.to_batches() or [batch.slice(0, 0)])[0]


def _split_at_cuts(
    cuts: Sequence[Cut], first: int, batch: pa.RecordBatch
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(index of a cut, number of its first row, its rows) for each cut with rows in `batch`.

    `first` is the number of the batch's first row.
    """
    end = first + batch.num_rows
    for index, cut in enumerate(cuts):
        start, stop = max(first, cut.first_row), min(end, cut.end)
        if start < stop:
            yield index, start, batch.slice(start - first, stop - start)


def _narrow(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows in slices of at most BATCH_BYTES, or of one row."""
    if rows.num_rows < 2 or rows.nbytes <= BATCH_BYTES:
        yield rows
        return
    half = rows.num_rows // 2
    yield from _narrow(rows.slice(0, half))
    yield from _narrow(rows.slice(half))
