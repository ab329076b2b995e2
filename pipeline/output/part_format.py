"""How the rows of a part become a file, as Arrow IPC or as Parquet, and rows again.

A part's name ends in its format. Whoever handles parts asks `format_of` and knows no other
difference: names, checksums and commits are the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.shards import part_format
from pipeline.spec import OutputFormat

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ARROW_SCHEMA = b"ARROW:schema"
_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
# Higher levels make vectors no smaller.
_ZSTD_LEVEL = 1


class PartFormat(Protocol):
    """A format of parts. Reading raises pa.ArrowException or OSError where a file is damaged."""

    reader: str  # the name of the format in `pyarrow.dataset` and `polars.read_<reader>`
    mapped: bool  # whether a local part may be mapped, so that only rows that are taken are read

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
        """A file with the rows; `metadata` is in it as it is."""

    def metadata_in(self, data: memoryview) -> list[slice]:
        """Where the metadata is in a file that `write` made."""

    def schema(self, file: object) -> pa.Schema:
        """The columns as `write` got them, and the metadata. Reads the end of a file alone."""

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as `write` got them, and the metadata.

        `columns` are some of its columns, in their order there; of two with one name, the last.
        """

    def holds(self, kind: pa.DataType) -> bool:
        """Whether a column of this type comes back as it was."""


class _Arrow:
    reader = "ipc"
    mapped = True

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
        table = table.replace_schema_metadata(dict(metadata))
        # A buffer that grows would be copied, and for a moment there would be two of them.
        size = pa.MockOutputStream()
        _write_ipc(table, size)
        # Not BytesIO: a view that outlives its BytesIO crashes Python 3.12 (cpython#111049).
        buffer = pa.allocate_buffer(size.size())
        _write_ipc(table, pa.FixedSizeBufferWriter(buffer))
        return buffer

    def metadata_in(self, data: memoryview) -> list[slice]:
        # Magic, marker and size, then the schema's message; the footer, its size and magic.
        message, footer = _integer(data[12:16]), _integer(data[-10:-6])
        return [slice(16, 16 + message), slice(len(data) - 10 - footer, len(data))]

    def schema(self, file: object) -> pa.Schema:
        with pa.ipc.open_file(file) as reader:
            return reader.schema

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        options = pa.ipc.IpcReadOptions()
        if columns is not None:
            last = {name: index for index, name in enumerate(pa.ipc.open_file(file).schema.names)}
            options.included_fields = sorted(last[name] for name in columns)
        return pa.ipc.open_file(file, options=options).read_all()

    def holds(self, kind: pa.DataType) -> bool:
        return True


def _integer(data: memoryview) -> int:
    return int.from_bytes(data, "little")


def _write_ipc(table: pa.Table, sink: pa.NativeFile) -> None:
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)


class _Parquet:
    """Parquet that everybody reads: version 2.6, lists of three levels, plain or dictionary pages.

    Floats split into streams of bytes would take 9% less, but many readers know no such page:
    Spark's until 2026, and of float16 DuckDB's. Types that Parquet does not know are in its
    ARROW:schema, for pyarrow and polars. The metadata is beside that, not in it in base64.
    """

    reader = "parquet"
    mapped = False

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
        import pyarrow.parquet as pq

        table = _without_null_entries(table.replace_schema_metadata(None))
        leaves = _leaves(table.schema)
        vectors = ("FLOAT", "FIXED_LEN_BYTE_ARRAY")
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink,
            table.schema,
            version="2.6",
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=[leaf.path for leaf in leaves if leaf.physical_type not in vectors],
            write_statistics=[leaf.path for leaf in leaves if not leaf.max_repetition_level],
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(dict(metadata))
        return sink.getvalue()

    def metadata_in(self, data: memoryview) -> list[slice]:
        return [slice(len(data) - 8 - _integer(data[-8:-4]), len(data))]  # the footer

    def schema(self, file: object) -> pa.Schema:
        import pyarrow.parquet as pq

        # As in `from_parquet`, no other thread reads: it might outlive the interpreter.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            return _stored_schema(parquet)

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            schema = _stored_schema(parquet)
            table = parquet.read(columns, use_threads=False)
        if columns is not None:
            names = [name for name in schema.names if name in columns]
            table = table.select(names)
            schema = pa.schema([schema.field(name) for name in names], schema.metadata)
        arrays = [_as(column, kind) for column, kind in zip(table, schema.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)

    def holds(self, kind: pa.DataType) -> bool:
        if not all(_survives(each, nested=each is not kind) for each in _kinds(kind)):
            return False
        try:
            empty = pa.schema([("", kind)]).empty_table()
            back = self.read(pa.BufferReader(self.write(empty, {})))
        except (pa.ArrowException, OSError):
            return False
        return bool(back.schema == empty.schema)


FORMATS: Mapping[OutputFormat, PartFormat] = {"arrow": _Arrow(), "parquet": _Parquet()}


def format_of(part: str) -> PartFormat:
    """The format of a part, by its name."""
    return FORMATS[part_format(part)]


def refuse_columns(output_format: OutputFormat, passing: pa.Schema) -> None:
    """Refuse columns that pass through and would not do so unchanged.

    Raises:
        InputError: the message names each of them.
    """
    refused = [field for field in passing if not FORMATS[output_format].holds(field.type)]
    if refused:
        columns = ", ".join(f"column {field.name!r} is {field.type}" for field in refused)
        raise InputError(
            f"{columns}: not a type that comes back unchanged from {output_format.capitalize()}",
            hint="cast it in the input, omit it from --keep, or write --output-format arrow",
        )


def _stored_schema(parquet: pq.ParquetFile) -> pa.Schema:
    metadata = dict(parquet.metadata.metadata or {})
    try:
        stored = base64.b64decode(metadata.pop(_ARROW_SCHEMA))
        return pa.ipc.read_schema(pa.py_buffer(stored)).with_metadata(metadata)
    except (KeyError, ValueError) as error:
        raise pa.ArrowInvalid("it has no readable ARROW:schema") from error


def _leaves(schema: pa.Schema) -> list[pq.ColumnSchema]:
    """The columns of values that Parquet makes of a schema."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(index) for index in range(len(leaves))]


def _without_null_entries(table: pa.Table) -> pa.Table:
    """The same values, but that no dictionary holds a null, which pyarrow does not write."""
    for index, column in enumerate(table.columns):
        kind = column.type
        if pa.types.is_dictionary(kind) and any(c.dictionary.null_count for c in column.chunks):
            values = column.cast(kind.value_type)
            table = table.set_column(index, table.schema.field(index), _as(values, kind))
    return table


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column that was read as the type it was written from."""
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.cast(kind)


def _survives(kind: pa.DataType, *, nested: bool) -> bool:
    """Whether values of a type that Parquet takes are as they were when they are read."""
    if pa.types.is_date64(kind):
        return False  # its milliseconds within a day are lost
    if pa.types.is_fixed_size_list(kind):
        return bool(kind.list_size)  # an empty one gets a value
    if pa.types.is_dictionary(kind) and kind.value_type not in _TEXTS:
        # It is read as its values, which pyarrow encodes again at the top only.
        views = (pa.string_view(), pa.binary_view())
        return not nested and kind.value_type not in views
    return True


def _kinds(kind: pa.DataType) -> Iterator[pa.DataType]:
    """A type and those within it."""
    yield kind
    if isinstance(kind, pa.BaseExtensionType):
        yield from _kinds(kind.storage_type)
    elif pa.types.is_dictionary(kind):
        yield from _kinds(kind.value_type)
    else:
        for index in range(kind.num_fields):
            yield from _kinds(kind.field(index).type)
