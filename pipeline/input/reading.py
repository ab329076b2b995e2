"""Rows of an input file → record batches of the planned schema, cut at shard boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import BeiJobsError, InputChanged, InputError, InputMissing, NotFound
from pipeline.input.discovery import TEXT_FORMATS, ListedFile, discover
from pipeline.input.formats import ContentError, FileSummary, open_reader
from pipeline.spec import Cut, InputFile
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import redact

__all__ = ["FileSummary", "ListedFile", "discover", "inspect", "read"]

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

# The hint of every InputChanged.
SUBMIT_AGAIN = "submit again to plan the new version of the file"
_FIND_IT = "put it back, or mount it on this machine, or submit again without it"


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
        raise InputError(
            f"{redact(listed.uri)} is an empty file", hint="write it again or leave it out"
        )
    with _reading(listed) as file:
        reader = open_reader(file, listed.format, listed.compression)
        summary = reader.summarize(columns, rows_per_shard)
        _check_version(listed, file)
        return summary


def read(
    file: InputFile, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Stream the rows of consecutive shards of one file through one open reader.

    The version is compared after opening, and after the last row of each cut before the next cut
    begins or the iterator ends. So a cut has been read completely only when the next one begins,
    or when the iterator ends without an error. Strings are not checked: invalid UTF-8 is an error
    of its row.

    Args:
        file: as planned.
        cuts: of this file, in order; rows between them are skipped.
        schema: the planned columns; hive keys among them come from the path.
        batch_rows: the largest number of rows in a batch.

    Yields:
        (index into `cuts`, batch with exactly `schema`); no batch spans two cuts.

    Raises:
        InputChanged: the file is not the planned version, or is gone.
        InputError: the content cannot be read or cast; the message names the rows.
        StorageError: the store failed.
    """
    if not cuts:
        return
    stored = pa.schema([f for f in schema if f.name not in dict(file.partition)])
    with _reading(file) as opened:
        reader = open_reader(opened, file.format, file.compression)
        last = 0
        for first, batch in reader.batches(cuts, stored, batch_rows):
            for index, row, rows in _split_at_cuts(cuts, first, batch):
                if index != last:
                    _check_version(file, opened)
                    last = index
                yield index, _planned(rows, row, schema, file)
        _check_version(file, opened)


@contextmanager
def _reading(file: InputFile | ListedFile) -> Iterator[OpenedFile]:
    """Open a file; any error is InputChanged if the file has changed meanwhile."""
    uri = redact(file.uri)
    try:
        opened = OpenedFile(file.uri, sequential=file.format in TEXT_FORMATS)
    except NotFound as error:
        raise InputMissing(f"{uri} no longer exists", hint=_FIND_IT) from error
    with opened:
        _check_version(file, opened)
        try:
            yield opened
        except (ContentError, BeiJobsError) as error:
            _check_version(file, opened)
            if isinstance(error, BeiJobsError):
                raise
            raise InputError(
                f"{uri}: {error}", hint="repair the file, or leave it out of the inputs"
            ) from error


def _check_version(file: InputFile | ListedFile, opened: OpenedFile) -> None:
    try:
        version = opened.version()
    except NotFound as error:
        raise InputMissing(f"{redact(file.uri)} no longer exists", hint=_FIND_IT) from error
    if version != file.version:
        raise InputChanged(f"{redact(file.uri)} changed since it was planned", hint=SUBMIT_AGAIN)


def _split_at_cuts(
    cuts: Sequence[Cut], first: int, batch: pa.RecordBatch
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(index of a cut, number of its first row, its rows) for each cut with rows in `batch`.

    `first` is the number of the batch's first row.
    """
    end = first + batch.num_rows
    for index, cut in enumerate(cuts):
        start, stop = max(first, cut.first_row), min(end, cut.first_row + cut.rows)
        if start < stop:
            yield index, start, batch.slice(start - first, stop - start)


def _planned(batch: pa.RecordBatch, row: int, schema: pa.Schema, file: InputFile) -> pa.RecordBatch:
    """The columns of `schema`, cast to its types; `row` is the number of the batch's first row."""
    partition = dict(file.partition)
    arrays = []
    for field in schema:
        if field.name in partition:
            value = partition[field.name]
            scalar = pa.scalar(None if value == _HIVE_NULL else value, field.type)
            arrays.append(pa.repeat(scalar, batch.num_rows))
        else:
            arrays.append(_cast(batch.column(field.name), field, row))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(array: pa.Array, field: pa.Field, row: int) -> pa.Array:
    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except (pa.ArrowException, NotImplementedError) as error:
        raise ContentError(
            f"column {field.name!r} of rows {row}-{row + len(array) - 1} is {array.type} and "
            f"cannot become the planned {field.type}: {error}"
        ) from error
