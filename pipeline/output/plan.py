"""The frozen list of a run's shards, columnar, so that a million of them cost little.

A plan knows neither the output nor the committed parts: `pipeline.output.output` stores it, and
the missing shards are always the plan minus the commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipeline.spec import Cut, InputFile, Shard, digest, shard_id
from pipeline.store.parquet_bytes import from_parquet, to_parquet

# A span is about this fraction of a job, so that workers are evenly loaded.
_SPANS_PER_JOB = 256
# A longer span would lose too much work with a worker.
_SPAN_MAX_SHARDS = 64

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
    byte_offset int64, shard string, part string.
    """

    files: tuple[InputFile, ...]
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(self.table["rows"].to_pylist())

    @cached_property
    def parts(self) -> frozenset[str]:
        """The names of all parts."""
        return frozenset(self.table["part"].to_pylist())

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the part names, equal for plans with the same shards."""
        return digest(self.table["part"].to_pylist())

    def shard(self, index: int) -> Shard:
        """The shard at `index` in input order."""
        row = {name: self.table[name][index].as_py() for name in self.table.column_names}
        cut = Cut(row["first_row"], row["rows"], row["byte_offset"])
        return Shard(self.files[row["file"]], cut, row["shard"])

    def shards(self, indexes: Iterable[int] | None = None) -> Iterator[Shard]:
        """The shards at `indexes` (by default all), created one at a time."""
        for index in range(len(self)) if indexes is None else indexes:
            yield self.shard(index)

    def missing(self, committed: Iterable[str] | Mapping[str, object]) -> list[int]:
        """Indexes of the shards whose part is not among `committed` names."""
        names = committed if isinstance(committed, (set, frozenset, Mapping)) else set(committed)
        return [i for i, part in enumerate(self.table["part"].to_pylist()) if part not in names]

    def spans(self, indexes: Sequence[int] | None = None) -> list[Span]:
        """Group shards into spans: runs of one file, at most 64, about 1/256 of the plan."""
        files = self.table["file"].to_pylist()
        max_shards = min(_SPAN_MAX_SHARDS, max(1, len(self) // _SPANS_PER_JOB))
        spans: list[Span] = []
        for index in range(len(self)) if indexes is None else indexes:
            last = spans[-1] if spans else None
            if (
                last is not None
                and last.start + last.count == index
                and last.count < max_shards
                and files[last.start] == files[index]
            ):
                spans[-1] = Span(last.start, last.count + 1)
            else:
                spans.append(Span(index, 1))
        return spans

    def cuts(self) -> dict[str, list[Cut]]:
        """File URI → its cuts, in row order; an unchanged file keeps them in the next run."""
        by_uri: dict[str, list[Cut]] = {file.uri: [] for file in self.files}
        for file, first, rows, offset in zip(
            *(self.table[n].to_pylist() for n in ("file", "first_row", "rows", "byte_offset")),
            strict=True,
        ):
            by_uri[self.files[file].uri].append(Cut(first, rows, offset))
        return by_uri

    def to_bytes(self) -> bytes:
        """One Parquet file: the shards are its rows, the files are in its metadata."""
        files = pa.Table.from_pylist([_file_row(file) for file in self.files], _FILE_SCHEMA)
        return to_parquet(self.table.replace_schema_metadata({_FILES: to_parquet(files)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read back what `to_bytes` wrote."""
        table = from_parquet(data)
        rows = from_parquet(table.schema.metadata[_FILES.encode()]).to_pylist()
        files = tuple(
            InputFile(**{**row, "partition": tuple(map(tuple, row["partition"]))}) for row in rows
        )
        return cls(files, table.replace_schema_metadata(None))


def make_plan(
    cut_files: Iterable[tuple[InputFile, Sequence[Cut]]], *, space: str, schema: str
) -> Plan:
    """Make the shards of all cuts and sort them into input order.

    Args:
        cut_files: each file with its cuts.
        space: `JobSpec.space`.
        schema: `schema_hash` of the id and kept columns.
    """
    files: list[InputFile] = []
    shards: list[tuple[int, Shard]] = []
    for file, cuts in cut_files:
        files.append(file)
        shards += [
            (len(files) - 1, Shard(file, cut, shard_id(space, schema, file, cut))) for cut in cuts
        ]
    shards.sort(key=lambda pair: pair[1].part)
    columns = {
        "file": pa.array([index for index, _ in shards], pa.int32()),
        "first_row": pa.array([shard.first_row for _, shard in shards], pa.int64()),
        "rows": pa.array([shard.rows for _, shard in shards], pa.int64()),
        "byte_offset": pa.array([shard.cut.byte_offset for _, shard in shards], pa.int64()),
        "shard": pa.array([shard.id for _, shard in shards], pa.string()),
        "part": pa.array([shard.part for _, shard in shards], pa.string()),
    }
    return Plan(tuple(files), pa.table(columns))


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
    ]
)


def _file_row(file: InputFile) -> dict[str, object]:
    return {
        "uri": file.uri,
        "path": file.path,
        "version": file.version,
        "size": file.size,
        "rows": file.rows,
        "format": file.format,
        "compression": file.compression,
        "partition": [list(pair) for pair in file.partition],
    }
