"""Which rows of a shard are copied from parts that are there already, and from where.

    _bei/copies/<shard>.parquet     written when a run is planned, deleted when it is finished

A row is copied where its row key is that of a row in an earlier part of the same space, whatever
file it came from. The list only says where to look: a row is copied if the keys are equal in all
their bits, the result is no error, and the part was computed in the precision of this engine. What
cannot be copied is computed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import NotFound, StorageError
from pipeline.output.chunk_rows import RowForm, has_chunks, row_starts
from pipeline.output.output import Output, is_part
from pipeline.output.part_format import format_of
from pipeline.output.run import Run
from pipeline.row_keys import KEY_FIELD
from pipeline.shards import Shard
from pipeline.spec import NUMERICS_VERSION
from pipeline.store.directory import Directory
from pipeline.store.parquet_bytes import from_parquet, to_parquet
from pipeline.store.uris import absolute, is_local, redact

logger = logging.getLogger(__name__)

COPIES = "_bei/copies/"
_SOURCES = b"sources"
_COLUMNS = ("first", "count", "source", "source_row")

Int32Array = npt.NDArray[np.int32]

# A part of this output (""), or of another one: its output's URI, and its name.
Source = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Copies:
    """For each row of a shard the row of a part that it may be copied from."""

    sources: tuple[Source, ...]
    source: Int32Array  # [rows] index into `sources`; -1: the row is not in a part
    row: Int32Array  # [rows] number in that part

    def to_bytes(self) -> bytes:
        """Parquet with one row per range of consecutive rows."""
        known = np.flatnonzero(self.source >= 0)
        source, row = self.source[known], self.row[known]
        follows = (np.diff(known) == 1) & (np.diff(source) == 0) & (np.diff(row) == 1)
        starts = np.flatnonzero(np.concatenate([np.ones(min(1, known.size), np.bool_), ~follows]))
        counts = np.diff(np.append(starts, known.size))
        columns = (known[starts], counts, source[starts], row[starts])
        arrays = [pa.array(values, pa.int32()) for values in columns]
        table = pa.Table.from_arrays(arrays, names=_COLUMNS)
        return to_parquet(table.replace_schema_metadata({_SOURCES: json.dumps(self.sources)}))

    @classmethod
    def from_bytes(cls, data: bytes, rows: int, outputs: Container[str]) -> Copies:
        """Read back what `to_bytes` wrote, for a shard of `rows` rows.

        Args:
            data: what others may have written too.
            rows: of the shard.
            outputs: where parts may be.

        Raises:
            ValueError: it is no list of copies for such a shard, or names anything else.
        """
        table = from_parquet(data)
        listed = json.loads((table.schema.metadata or {})[_SOURCES])
        sources = tuple((str(output), str(part)) for output, part in listed)
        for output, part in sources:
            if output not in outputs or not is_part(part):
                raise ValueError(f"{redact(output)!r} {part!r} is not a part to copy from")
        source = np.full(rows, -1, dtype=np.int32)
        row = np.zeros(rows, dtype=np.int32)
        values = (table[name].to_pylist() for name in _COLUMNS)
        for first, count, number, source_row in zip(*values, strict=True):
            if min(first, number, source_row) < 0 or first + count > rows or number >= len(sources):
                raise ValueError(f"rows {first}+{count} of {rows}, source {number}")
            source[first : first + count] = number
            row[first : first + count] = np.arange(source_row, source_row + count)
        return cls(sources, source, row)


def write_copies(output: Output, shard: str, copies: Copies) -> None:
    """Store the copies of a shard, before its run is visible."""
    output.directory.put(f"{COPIES}{shard}.parquet", copies.to_bytes())


def read_copies(output: Output, run: Run, shard: Shard) -> Copies | None:
    """The copies of a shard of a run; None where there are none, or they cannot be used."""
    name = f"{COPIES}{shard.id}.parquet"
    try:
        data = output.directory.read(name)
        return Copies.from_bytes(data, shard.rows, {"", run.reuse_from})
    except NotFound:
        return None
    except (StorageError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not used, its rows are computed: %s", name, error)
        return None


def delete_copies(output: Output) -> None:
    """Delete all lists of copies: of a finished run every part is there."""
    for item in list(output.directory.list(COPIES)):
        output.directory.delete(item.name)


def read_keys(directory: Directory, part: str) -> pa.ChunkedArray | None:
    """The row keys of a part; None where it has none. Nothing else of its rows is read.

    Raises:
        StorageError: it cannot be read.
    """
    table = _read_columns(directory, part, [KEY_FIELD.name])
    if table is None:
        return None
    if has_chunks(table.schema.metadata):
        table = _read_columns(directory, part, ["chunk", KEY_FIELD.name])
        assert table is not None
        table = table.take(pa.array(row_starts(table["chunk"])))
    return table[KEY_FIELD.name]


def read_results(run: Run, source: Source, results: pa.Schema, precision: str) -> pa.Table | None:
    """The columns `results` and KEY_FIELD of a part, as its rows are held; None where it was
    computed in another way.

    A local Arrow part is mapped into memory, so that only the rows that are taken are read.

    Args:
        run: whose space the part must have.
        source: the part.
        results: the result columns of the run, as they are held.
        precision: that the part must have been computed in.

    Raises:
        StorageError: it cannot be read.
    """
    output, part = source
    directory = Directory(output or run.output)
    form = RowForm(0, keyed=True, chunked=run.spec.has_chunk_rows)
    wanted = form.part_schema(results.append(KEY_FIELD))
    table = _read_columns(directory, part, wanted.names)
    if table is None or table.schema.remove_metadata() != wanted:
        return None
    if not _computed_in(run, table, precision):
        return None
    return form.to_held(table, table.schema.metadata)


def read_errors(run: Run, source: Source, precision: str) -> pa.ChunkedArray | None:
    """The error of each row of a part; None where it was computed in another way.

    Raises:
        StorageError: it cannot be read.
    """
    names = ["chunk", "error"] if run.spec.has_chunk_rows else ["error"]
    output, part = source
    table = _read_columns(Directory(output or run.output), part, names)
    if table is None or not _computed_in(run, table, precision):
        return None
    if not run.spec.has_chunk_rows:
        return table["error"]
    return table["error"].take(pa.array(row_starts(table["chunk"])))


def _computed_in(run: Run, table: pa.Table, precision: str) -> bool:
    """Whether a part has the space of a run, a precision, and the numerics of this version."""
    values = table.schema.metadata or {}
    expected = {"space": run.spec.space, "numerics_version": str(NUMERICS_VERSION),
                "precision": precision}  # fmt: skip
    return all(values.get(f"bei.{key}".encode()) == text.encode() for key, text in expected.items())


def _read_columns(directory: Directory, part: str, names: Sequence[str]) -> pa.Table | None:
    """Some columns of a part; None where it lacks one."""
    try:
        with _opened(directory, part) as file:
            kind = format_of(part)
            if not set(names) <= set(kind.schema(file).names):
                return None
            return kind.read(file, names)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{part} cannot be read: {error}") from error


@contextmanager
def _opened(directory: Directory, part: str) -> Iterator[Any]:
    if is_local(directory.uri):
        with pa.memory_map(absolute(directory.uri_of(part))) as mapped:
            yield mapped
    else:
        with directory.open(part) as file:
            yield file
