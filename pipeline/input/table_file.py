"""A data file as its table reads it: other names and types, constants, deleted rows."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline.input.formats.base import ContentError, FileSummary
from pipeline.input.types import merged_type
from pipeline.packing import Int64Array
from pipeline.shards import Cut
from pipeline.spec import digest
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import redact

_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The version of a table that is read."""

    uri: str
    format: str  # Delta or Iceberg
    version: str  # such as "version 7"
    columns: tuple[str, ...] = ()  # the names of all


@dataclass(frozen=True, slots=True)
class ReadTable:
    """A table as an input of a job."""

    uri: str
    format: str
    version: str
    files: int  # of the version that is read

    def __str__(self) -> str:
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{self.format} table {redact(self.uri)}, {self.version}, {files}"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table, and what it is in a data file."""

    name: str
    kind: pa.DataType = field(default_factory=pa.null)  # in the table
    id: int | None = None  # of the file's field; None: fields are found by name
    names: tuple[str, ...] = ()  # of the file's field, where it has no id
    constant: bool = False  # its value is the table's, whatever the file has
    value: str | None = None  # of a constant, or where the file has no such field
    problem: str = ""  # why it cannot be read

    def find(self, schema: pa.Schema) -> int | None:
        """The index of its field in a file; None where the file has none.

        Raises:
            ContentError: fields are found by id, and the file's have none.
        """
        if self.constant:
            return None
        ids = [field_id(one) for one in schema]
        if self.id is not None and any(ids):
            return ids.index(str(self.id)) if str(self.id) in ids else None
        if self.id is not None and not self.names:
            raise ContentError(f"column {self.name!r} is found by its id, and the file has no ids")
        return next((i for i, one in enumerate(schema) if one.name in self.names), None)


@dataclass(frozen=True, slots=True, eq=False)
class TableFile:
    """A data file of a snapshot."""

    snapshot: Snapshot
    columns: tuple[TableColumn, ...]
    values: Mapping[str, str | None]  # column → its value in this file
    deleted: str = ""  # see `packed_rows`

    def narrowed(self, names: Collection[str]) -> TableFile:
        """With only these columns, so that others may change without changing the file."""
        columns = [
            replace(column, value=self.values.get(column.name, column.value))
            for column in self.columns
            if column.name in names
        ]
        return replace(self, columns=tuple(sorted(columns, key=lambda column: column.name)))

    @property
    def version(self) -> str:
        """16 hex digits over what its table makes of the file."""
        kinds = [str(column.kind) for column in self.columns]
        deleted = hashlib.sha256(deleted_rows(self.deleted).tobytes()).hexdigest()
        return digest(self.text, kinds, deleted)

    @property
    def text(self) -> str:
        """Where the columns are in the file, for `TableReader`."""
        return json.dumps([
            [column.name, column.id, column.names, column.constant, column.value]
            for column in self.columns
        ])  # fmt: skip

    def summarize(self, file: OpenedFile, rows_per_shard: int) -> FileSummary:
        """Describe the file with the columns of the table.

        Raises:
            ContentError: a column is not what the table says.
        """
        from pipeline.input.formats.parquet import ParquetReader

        reader = ParquetReader(file)
        for column in self.columns:
            if problem := column.problem or _mismatch(column, reader.schema):
                raise ContentError(f"column {column.name!r} of the table: {problem}")
        schema = pa.schema([(column.name, column.kind) for column in self.columns])
        stored = {
            reader.schema.field(place).name: column.name
            for column in self.columns
            if (place := column.find(reader.schema)) is not None
        }
        summary = reader.summarize(list(stored), rows_per_shard)
        sizes = summary.sizes and summary.sizes.renamed(stored)
        return replace(
            summary, schema=schema, columns=self.snapshot.columns, large_from={}, sizes=sizes
        )


class TableReader:
    """The columns of a table in one of its data files: like `Reader`, but for the summary."""

    def __init__(self, file: OpenedFile, text: str) -> None:
        from pipeline.input.formats.parquet import ParquetReader

        self._reader = ParquetReader(file)
        self._columns = {
            name: TableColumn(
                name, id=number, names=tuple(names), constant=constant, value=value
            )
            for name, number, names, constant, value in json.loads(text)
        }  # fmt: skip

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Every row of `cuts`, deleted ones too."""
        stored = self._reader.schema
        places = [self._columns[name].find(stored) for name in schema.names]
        needed = pa.schema([stored.field(i) for i in sorted({i for i in places if i is not None})])
        for first, batch in self._reader.batches(cuts, needed, batch_rows):
            arrays = [
                self._value(one, batch.num_rows) if i is None else batch[stored.field(i).name]
                for one, i in zip(schema, places, strict=True)
            ]
            yield first, pa.RecordBatch.from_arrays(arrays, schema.names)

    def _value(self, of: pa.Field, rows: int) -> pa.Array:
        value = self._columns[of.name].value
        if value is None:
            return pa.nulls(rows, of.type)
        return pa.repeat(pa.scalar(value).cast(of.type), rows)


def read_tables(files: Iterable[TableFile]) -> tuple[ReadTable, ...]:
    """The tables that files are of."""
    counts = Counter(file.snapshot for file in files)
    return tuple(ReadTable(of.uri, of.format, of.version, n) for of, n in counts.items())


def packed_rows(rows: Int64Array) -> str:
    """The numbers of deleted rows, ascending, as text; "" for none. See `deleted_rows`."""
    if not len(rows):
        return ""
    steps = np.diff(rows, prepend=0).astype("<i8").tobytes()
    return base64.b64encode(zlib.compress(steps)).decode()


@lru_cache(maxsize=16)
def deleted_rows(text: str) -> Int64Array:
    """What `packed_rows` was given."""
    steps = zlib.decompress(base64.b64decode(text)) if text else b""
    return np.cumsum(np.frombuffer(steps, dtype="<i8"), dtype=np.int64)


def field_id(one: pa.Field) -> str:
    """The id of a Parquet field; "" where it has none."""
    metadata: dict[bytes, bytes] = one.metadata or {}
    return metadata.get(_FIELD_ID, b"").decode()


def _mismatch(column: TableColumn, schema: pa.Schema) -> str:
    """Why the column of a file is not the table's; "" where it is."""
    if (place := column.find(schema)) is None:
        return ""
    kind, wanted = _plain(schema.field(place).type), _plain(column.kind)
    if column.id is not None and not _same_ids(kind, column.kind):
        return "its nested fields were renamed, or the file has no ids of them"
    # Of INT96, Parquet does not say that it is UTC.
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(wanted) and kind.tz is None:
        wanted = pa.timestamp(wanted.unit)
    if merged_type(kind, wanted) != wanted:
        return f"the file has {kind}, which does not become {column.kind} without loss"
    return ""


def _same_ids(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether nested fields of one name have one id, and those of one id have one name."""
    if pa.types.is_struct(stored) and pa.types.is_struct(wanted):
        ids = {one.name: field_id(one) for one in stored}
        for one in wanted:
            if one.name not in ids:
                same = all(ids.values()) and field_id(one) not in ids.values()
            else:
                same = bool(ids[one.name]) and ids[one.name] == field_id(one)
                same = same and _same_ids(stored.field(one.name).type, one.type)
            if not same:
                return False
        return True
    pairs = zip(_items(stored), _items(wanted), strict=False)
    return all(_same_ids(one.type, other.type) for one, other in pairs)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries and views, which are layouts of the same values."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_plain(one.type)) for one in kind])
    if pa.types.is_map(kind):
        return pa.map_(*(one.with_type(_plain(one.type)) for one in _items(kind)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def _items(kind: pa.DataType) -> tuple[pa.Field, ...]:
    """What a list or a map holds."""
    if pa.types.is_map(kind):
        return kind.key_field, kind.item_field
    return (kind.value_field,) if hasattr(kind, "value_field") else ()
