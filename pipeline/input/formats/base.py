"""Shared by all readers: the interface, the summary of a file, and the error they raise."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipeline.errors import BeiJobsError
from pipeline.input.formats.sizes import Sizes
from pipeline.shards import Cut

_DETAIL_MAX_CHARS = 200


class ContentError(Exception):
    """The content is wrong: the message says what and where, the caller adds the file."""


@dataclass(frozen=True, slots=True)
class FileSummary:
    """The contents of a file, known without reading its rows (text formats: by one pass)."""

    schema: pa.Schema  # of the requested columns that exist, types as stored
    columns: tuple[str, ...]  # all names in file order, repeated where the file repeats one
    rows: int
    row_groups: tuple[int, ...] | None = None  # rows of each, None for text formats
    offsets: tuple[int, ...] = ()  # bytes of uncompressed text before each shard's first row
    compression: str = ""  # that of its bytes, whatever the name says
    # JSONL: column → the row that gave it its type
    type_rows: Mapping[str, int] = field(default_factory=dict)
    # column of integers → a row up to which each is at most EXACT; of Arrow not known
    large_from: Mapping[str, int] = field(default_factory=dict)
    sizes: Sizes | None = field(default=None, compare=False)  # of the requested columns


class Reader(Protocol):
    """One open file of one format."""

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count the rows and describe the columns.

        `columns` are those whose types are needed, None for all.
        """
        ...

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Stream (first row, rows) in order: every row of `cuts`, and possibly rows between them.

        `schema` names the columns to read and their planned types; the batches may still have
        the types of the file. `cuts` are in order and do not overlap.
        """
        ...


@contextmanager
def content_errors(where: str) -> Iterator[None]:
    """Turn pyarrow's errors about content into a ContentError that says `where`.

    pyarrow raises OSError for a corrupt page, as a store does for a broken connection. Those of a
    store were translated before they reached pyarrow.
    """
    try:
        yield
    except (BeiJobsError, ContentError):
        raise
    except (
        pa.ArrowException, OSError, ValueError, KeyError, OverflowError, EOFError, csv.Error
    ) as error:  # fmt: skip
        detail = " ".join(str(error).split())[:_DETAIL_MAX_CHARS]
        raise ContentError(f"{where}: {detail}" if where else detail) from error


def select_fields(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The fields of `schema` that are among `columns`, without metadata, all nullable."""
    return pa.schema(
        [pa.field(f.name, f.type) for f in schema if columns is None or f.name in columns]
    )


def overlaps(first_row: int, rows: int, cuts: Sequence[Cut]) -> bool:
    """Whether any of `cuts` has a row in [first_row, first_row + rows)."""
    end = first_row + rows
    return any(cut.first_row < end and cut.end > first_row for cut in cuts)
