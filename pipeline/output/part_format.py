"""How the rows of a part become a file, as Arrow IPC or as Parquet, and rows again.

A part's name ends in its format. Whoever handles parts asks `format_of` and knows no other
difference: names, checksums and commits are the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.spec import OutputFormat, part_format

_ARROW_SCHEMA = b"ARROW:schema"
# Its levels differ by 0.1% in size on vectors, and this one is the fastest.
_ZSTD_LEVEL = 1


class PartFormat(Protocol):
    """A format of parts. Reading raises pa.ArrowException or OSError where a file is damaged."""

    reader: str  # the name of the format in `pyarrow.dataset` and `polars.read_<reader>`
    mapped: bool  # whether a local part may be mapped, so that only rows that are taken are read

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
        """A file with the rows; `metadata` is in it as it is."""

    def schema(self, file: object) -> pa.Schema:
        """The columns as `write` got them, and the metadata. Reads the end of a file alone."""

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as `write` got them, and the metadata.

        `columns` are some of its columns, in their order there; of two with one name, the last.
        """

    def cannot_hold(self, field: pa.Field) -> str:
        """Why a column would not come back as it was; "" if it would."""


class _Arrow:
    reader = "ipc"
    mapped = True

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
        table = table.replace_schema_metadata(dict(metadata))
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def schema(self, file: object) -> pa.Schema:
        with pa.ipc.open_file(file) as reader:
            return reader.schema

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        options = pa.ipc.IpcReadOptions()
        if columns is not None:
            last = {name: index for index, name in enumerate(pa.ipc.open_file(file).schema.names)}
            options.included_fields = sorted(last[name] for name in columns)
        return pa.ipc.open_file(file, options=options).read_all()

    def cannot_hold(self, field: pa.Field) -> str:
        return ""


class _Parquet:
    """Parquet that everybody reads: version 2.6, lists of three levels, plain or dictionary pages.

    Byte streams of floats would save 9%, but neither Spark before 4.2 reads them nor, of float16,
    DuckDB. The types that Parquet does not know are in its ARROW:schema, for pyarrow and polars.
    The metadata is beside that, not in it, where it would be in base64.
    """

    reader = "parquet"
    mapped = False

    def write(self, table: pa.Table, metadata: Mapping[str, str]) -> pa.Buffer:
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

    def schema(self, file: object) -> pa.Schema:
        # As in `from_parquet`, no other thread reads: it might outlive the interpreter.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            return _stored_schema(parquet)

    def read(self, file: object, columns: Sequence[str] | None = None) -> pa.Table:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            schema = _stored_schema(parquet)
            table = parquet.read(columns, use_threads=False)
        if columns is not None:
            names = [name for name in schema.names if name in columns]
            table = table.select(names)
            schema = pa.schema([schema.field(name) for name in names], schema.metadata)
        arrays = [_as(column, kind) for column, kind in zip(table, schema.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)

    def cannot_hold(self, field: pa.Field) -> str:
        for kind in _kinds(field.type):
            if pa.types.is_date64(kind):
                return "its dates have no time of day"
            if pa.types.is_fixed_size_list(kind) and not kind.list_size:
                return "its lists of one length are not empty"
        try:
            self.read(pa.BufferReader(self.write(pa.schema([field]).empty_table(), {})))
        except (pa.ArrowException, OSError) as error:
            return str(error).splitlines()[0]
        return ""


FORMATS: Mapping[OutputFormat, PartFormat] = {"arrow": _Arrow(), "parquet": _Parquet()}


def format_of(part: str) -> PartFormat:
    """The format of a part, by its name."""
    return FORMATS[part_format(part)]


def refuse_columns(output_format: OutputFormat, passing: pa.Schema) -> None:
    """Refuse columns that pass through and would not do so unchanged.

    Raises:
        InputError: the message names each of them.
    """
    problems = {field: FORMATS[output_format].cannot_hold(field) for field in passing}
    if refused := [
        f"column {field.name!r} is {field.type}, which {output_format.capitalize()} cannot hold "
        f"({problem})"
        for field, problem in problems.items()
        if problem
    ]:
        raise InputError(
            "; ".join(refused),
            hint="omit it from --keep, cast it in the input, or write --output-format arrow",
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
