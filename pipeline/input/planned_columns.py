"""Columns as a file stores them, or as its path names them → columns of the planned schema."""

from __future__ import annotations

import pyarrow as pa

from pipeline.input.formats import ContentError
from pipeline.shards import InputFile

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def planned_columns(
    batch: pa.RecordBatch, row: int, schema: pa.Schema, file: InputFile
) -> pa.RecordBatch:
    """The columns of `schema`, cast to its types; `row` is the number of the batch's first row."""
    partition = dict(file.partition)
    arrays = []
    for field in schema:
        if field.name in partition:
            arrays.append(column_of_path(file, field, batch.num_rows))
        else:
            arrays.append(_cast(batch.column(field.name), field, row))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def column_of_path(file: InputFile, field: pa.Field, rows: int) -> pa.Array:
    """A hive key's value for each row."""
    value = dict(file.partition)[field.name]
    return pa.repeat(pa.scalar(None if value == _HIVE_NULL else value, field.type), rows)


def _cast(array: pa.Array, field: pa.Field, row: int) -> pa.Array:
    if array.type == field.type:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), field.type)  # pyarrow cannot cast nulls to every type
    try:
        return array.cast(field.type)
    except (pa.ArrowException, NotImplementedError) as error:
        if len(array) > 1:
            for index in range(len(array)):
                _cast(array.slice(index, 1), field, row + index)
        raise ContentError(
            f"row {row}: column {field.name!r} is {array.type} and cannot become the planned "
            f"{field.type}: {error}"
        ) from error
