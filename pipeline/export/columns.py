"""Columns as the format of an export knows them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.export.destination import Destination
from pipeline.input.types import map_types
from pipeline.store.uris import redact


def common_type(kind: pa.DataType) -> pa.DataType:
    """A type of the same values without the layouts that few readers know."""
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field)
    return pa.string() if pa.types.is_string_view(kind) else kind


def fitting_schema(
    schema: pa.Schema,
    dest: Destination,
    change: Callable[[pa.DataType], pa.DataType],
    check: Callable[[pa.Schema], None],
) -> pa.Schema:
    """The columns as they are written.

    Args:
        schema: of the output.
        dest: named in errors.
        change: maps a type to the one that holds the same values in the format.
        check: raises any exception where the format has no columns like these.

    Raises:
        UsageError: the format has no type for a column; column and type are named.
    """
    fields = []
    for field in schema:
        fields.append(field.with_type(map_types(field.type, change)))
        try:
            check(pa.schema(fields[-1:]))
        except Exception as error:
            raise _no_type(field, dest) from error
    return pa.schema(fields, schema.metadata)


def cast(table: pa.Table, schema: pa.Schema, dest: Destination) -> pa.Table:
    """The rows in the types of `schema`.

    Raises:
        UsageError: a value would change; its column is named.
    """
    columns = []
    for field, column in zip(schema, table.columns, strict=True):
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise UsageError(
                f"{redact(dest.uri)}: --to {dest.format} would change the column {field.name!r}: "
                f"{error}",
                hint="export --to parquet, which keeps every value",
            ) from error
    return pa.table(columns, schema=schema)


def _no_type(field: pa.Field, dest: Destination) -> UsageError:
    other = "parquet" if dest.format != "parquet" else "lance"
    return UsageError(
        f"{redact(dest.uri)}: --to {dest.format} has no type for the column {field.name!r}, "
        f"which is {field.type}",
        hint=f"export --to {other}, or read the parts that `bei-jobs files` lists",
    )
