"""The frozen list of a run's shards, columnar, so that a million of them cost little.

A plan knows neither the output nor the committed parts: `pipeline.output.output` stores it, and
the missing shards are always the plan minus the commits.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.shards import Cut, InputFile, Shard, part_format, part_name, shard_ids
from pipeline.spec import OutputFormat, digest_of_names
from pipeline.store.parquet_bytes import from_parquet, to_parquet

# A span is about this fraction of a job, so that workers are evenly loaded.
_SPANS_PER_JOB = 256
# A longer span would lose too much work with a worker.
_SPAN_MAX_SHARDS = 64

# Rows of a table that are Python objects at once.
_BATCH_ROWS = 8192

_FILES = "bei_files"  # key of the file table in the Parquet metadata


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive shards of one file, carried by one queue message."""

    start: int  # index of the first shard in the plan
    count: int


@dataclass(frozen=True)
class Plan:
    """Shards in byte order of their parts' names, which defines the input order.

    `table` has one row per shard: file int32 (index into `files`), first_row int64, rows int64,
    byte_offset int64, shard string, part string; repair int32, if any shard was repaired; and
    extent int64, if only some rows are selected (then with repair).
    """

    files: tuple[InputFile, ...]
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def rows(self) -> int:
        """Rows of all shards."""
        import pyarrow.compute as pc

        return int(pc.sum(self.table["rows"]).as_py() or 0)

    @cached_property
    def parts(self) -> frozenset[str]:
        """The names of all parts."""
        return frozenset(part for (part,) in self.values("part"))

    @cached_property
    def output_format(self) -> OutputFormat:
        """The format of the parts, which their names end in."""
        return part_format(self.table["part"][0].as_py()) if len(self) else "arrow"

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the part names, equal for plans with the same shards."""
        batches = self.table["part"].chunks
        return digest_of_names(
            batch.slice(start, _BATCH_ROWS).to_pylist()
            for batch in batches
            for start in range(0, len(batch), _BATCH_ROWS)
        )

    def values(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """The values of `columns`, shard by shard; those of a few thousand are held at once."""
        yield from row_values(self.table.select(columns))

    def shard(self, index: int) -> Shard:
        """The shard at `index` in input order."""
        return next(self.shards([index]))

    def shards(self, indexes: Iterable[int] | None = None) -> Iterator[Shard]:
        """The shards at `indexes` (by default all), created a few thousand at a time."""
        table = self.table.select(("file", "shard", *self._cut_columns))
        for start, count in _consecutive(range(len(self)) if indexes is None else indexes):
            for file, shard, *cut in row_values(table.slice(start, count)):
                yield Shard(self.files[file], Cut(*cut), shard, self.output_format)

    def missing(self, committed: Iterable[str] | Mapping[str, object]) -> list[int]:
        """Indexes of the shards whose part is not among `committed` names."""
        names = committed if isinstance(committed, (set, frozenset, Mapping)) else set(committed)
        return [i for i, (part,) in enumerate(self.values("part")) if part not in names]

    def spans(self, indexes: Sequence[int] | None = None) -> list[Span]:
        """Group shards into spans: runs of one file, at most 64, about 1/256 of the plan."""
        max_shards = min(_SPAN_MAX_SHARDS, max(1, len(self) // _SPANS_PER_JOB))
        chosen = np.asarray(range(len(self)) if indexes is None else indexes, dtype=np.int64)
        files = self.table["file"].to_numpy()[chosen]
        follows = (np.diff(chosen) == 1) & (np.diff(files) == 0)
        bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(chosen)]
        return [
            Span(int(chosen[at]), min(max_shards, end - at))
            for start, end in pairwise(bounds)
            for at in range(start, end, max_shards)
        ]

    def cuts(self) -> dict[str, list[Cut]]:
        """File URI → its cuts, in row order; an unchanged file keeps them in the next run."""
        by_file: list[list[Cut]] = [[] for _ in self.files]
        for file, *cut in self.values("file", *self._cut_columns):
            by_file[file].append(Cut(*cut))
        return {file.uri: cuts for file, cuts in zip(self.files, by_file, strict=True)}

    @property
    def _cut_columns(self) -> tuple[str, ...]:
        """The fields of a cut that the table has, in order."""
        return tuple(field.name for field in fields(Cut) if field.name in self.table.column_names)

    def rows_by_file(self, chosen: Container[str] | None = None) -> dict[str, int]:
        """File URI → its planned rows, or those of them whose part is among `chosen` names."""
        rows = dict.fromkeys((file.uri for file in self.files), 0)
        for file, count, part in self.values("file", "rows", "part"):
            if chosen is None or part in chosen:
                rows[self.files[file].uri] += count
        return rows

    def to_bytes(self) -> bytes:
        """One Parquet file: the shards are its rows, the files are in its metadata."""
        files = table_of(map(_file_values, self.files), _FILE_SCHEMA)
        for name in _LATER:  # as in plans before there were these
            if not any(getattr(file, name) for file in self.files):
                files = files.drop_columns(name)
        return to_parquet(self.table.replace_schema_metadata({_FILES: to_parquet(files)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read back what `to_bytes` wrote."""
        table = from_parquet(data)
        rows = from_parquet(table.schema.metadata[_FILES.encode()])
        rows = rows.select([name for name in _FILE_SCHEMA.names if name in rows.column_names])
        files = tuple(_file(zip(rows.column_names, v, strict=True)) for v in row_values(rows))
        return cls(files, table.replace_schema_metadata(None))


def make_plan(
    cut_files: Iterable[tuple[InputFile, Sequence[Cut]]],
    *,
    space: str,
    schema: str,
    output_format: OutputFormat = "arrow",
) -> Plan:
    """Make the shards of all cuts and sort them into input order.

    Args:
        cut_files: each file with its cuts.
        space: `JobSpec.space`.
        schema: `schema_hash` of the id and kept columns.
        output_format: of the parts.
    """
    import pyarrow.compute as pc

    files: list[InputFile] = []
    table = table_of(_shards(cut_files, files, space, schema, output_format), _SHARD_SCHEMA)
    # As in plans before there were extents and repairs. A cut is read by the order of its fields.
    for name in ("extent", "repair"):
        if pc.any(pc.greater(table[name], 0)).as_py():
            break
        table = table.drop_columns(name)
    order = pc.sort_indices(table["part"]).to_numpy()
    if (np.diff(order.astype(np.int64)) != 1).any():  # files usually come in input order
        table = table.take(order)
    return Plan(tuple(files), table)


def _shards(
    cut_files: Iterable[tuple[InputFile, Sequence[Cut]]],
    files: list[InputFile],
    space: str,
    schema: str,
    output_format: OutputFormat,
) -> Iterator[tuple[Any, ...]]:
    """The rows of a plan's table as they come; each file is added to `files`."""
    for index, (file, cuts) in enumerate(cut_files):
        files.append(file)
        prefix, id_of = file.part_prefix, shard_ids(space, schema, file)
        for cut in cuts:
            shard = id_of(cut)
            part = part_name(prefix, cut.first_row, shard, output_format)
            last = (cut.repair, cut.extent)
            yield index, cut.first_row, cut.rows, cut.byte_offset, shard, part, *last


def table_of(rows: Iterator[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """The rows as a table; those of one batch are held as Python objects."""
    batches = []
    while batch := list(islice(rows, _BATCH_ROWS)):
        columns = zip(*batch, strict=True)
        arrays = [pa.array(next(columns), field.type) for field in schema]
        batches.append(pa.record_batch(arrays, schema))
    return pa.Table.from_batches(batches, schema)


def row_values(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The values of each row; those of a few thousand rows are Python objects at once."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _consecutive(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive indexes, as (first, count), in the order given."""
    first = count = 0
    for index in indexes:
        if count and index == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count


_SHARD_SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
        ("byte_offset", pa.int64()),
        ("shard", pa.string()),
        ("part", pa.string()),
        ("repair", pa.int32()),
        ("extent", pa.int64()),
    ]
)

_FILE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("path", pa.string()),
        ("version", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("format", pa.string()),
        ("compression", pa.string()),
        ("partition", pa.list_(pa.list_(pa.string()))),
        ("where", pa.string()),
        ("csv_escape", pa.string()),
        ("table", pa.string()),
        ("deleted", pa.string()),
    ]
)
_LATER = ("where", "csv_escape", "table", "deleted")


def _file(values: Iterable[tuple[str, Any]]) -> InputFile:
    named = dict(values)
    return InputFile(**{**named, "partition": tuple(map(tuple, named["partition"]))})


def _file_values(file: InputFile) -> tuple[Any, ...]:
    return (
        file.uri, file.path, file.version, file.size, file.rows, file.format, file.compression,
        [list(pair) for pair in file.partition], file.where, file.csv_escape, file.table,
        file.deleted,
    )  # fmt: skip
