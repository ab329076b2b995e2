"""Columns that every reader of a part can read: their strings are valid UTF-8.

Arrow and Parquet check no string, and one invalid byte makes a whole file unreadable to others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards import part_format

_NOT_IN_POLARS = (
    pa.types.is_list_view,
    pa.types.is_large_list_view,
    pa.types.is_run_end_encoded,
    pa.types.is_interval,
    pa.types.is_union,
)


def readable(array: pa.Array) -> pa.Array:
    """The array with U+FFFD in place of invalid UTF-8, at any depth; the same where all is valid.

    Unions are left as they are.
    """
    if _valid(array):
        return array
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, readable(array.storage))
    if pa.types.is_dictionary(kind):
        values = readable(array.dictionary).take(array.indices)
        return values.dictionary_encode().cast(kind)
    if pa.types.is_run_end_encoded(kind):
        values = readable(pc.run_end_decode(array))
        return pc.run_end_encode(values, run_end_type=kind.run_end_type)
    if pa.types.is_struct(kind):
        fields = [readable(array.field(i)) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=[*kind], mask=array.is_null())
    if pa.types.is_nested(kind):
        return _readable_lists(array)
    texts = array.cast(pa.large_binary()).to_pylist()
    return pa.array([None if t is None else t.decode("utf-8", "replace") for t in texts], kind)


def _readable_lists(array: pa.Array) -> pa.Array:
    kind, mask = array.type, array.is_null()
    if pa.types.is_fixed_size_list(kind):
        start, size = array.offset * kind.list_size, len(array) * kind.list_size
        values = readable(array.values.slice(start, size))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)
    if pa.types.is_map(kind):
        offsets = array.offsets.to_numpy()
        first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
        keys, items = (readable(one.slice(first, count)) for one in (array.keys, array.items))
        return pa.MapArray.from_arrays(pa.array(offsets - first), keys, items, kind, mask=mask)
    if pa.types.is_union(kind):
        return array
    values, lengths = readable(array.flatten()), _lengths(array)
    ends = np.cumsum(lengths)
    wide = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    index = pa.int64() if wide else pa.int32()
    offsets = pa.array(np.concatenate(([0], ends)), index)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.LargeListArray if wide else pa.ListArray
        return make.from_arrays(offsets, values, type=kind, mask=mask)
    make_view = pa.LargeListViewArray if wide else pa.ListViewArray
    starts, sizes = pa.array(ends - lengths, index), pa.array(lengths, index)
    return make_view.from_arrays(starts, sizes, values, type=kind, mask=mask)


def _lengths(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    lengths = pc.list_value_length(array).fill_null(0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def invalid_rows(rows: pa.RecordBatch, names: Sequence[str]) -> dict[int, str]:
    """Row → the first of the named columns that is not valid UTF-8 there, and why."""
    found: dict[int, str] = {}
    for name in names:
        column = rows.column(name)
        for row in () if _valid(column) else range(len(column)):
            try:
                column[row].as_py()
            except UnicodeDecodeError as error:
                reason = f"{error.reason} at byte {error.start}"
                found.setdefault(row, f"the column {name!r} is not valid UTF-8: {reason}")
    return found


def unreadable(name: str, data: bytes, table: pa.Table) -> Iterator[str]:
    """Why a part is not a sound file to another reader, polars.

    Args:
        name: of the part.
        data: its bytes.
        table: what pyarrow reads.
    """
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        yield f"it is not a valid {part_format(name).capitalize()} file: {error}"
        return
    if any(_unknown_to_polars(kind) for kind in table.schema.types):
        return
    import polars as pl

    scan = pl.read_parquet if part_format(name) == "parquet" else pl.read_ipc
    try:
        rows = len(scan(io.BytesIO(data)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        yield f"polars cannot read it: {str(error).splitlines()[0]}"
        return
    if rows != len(table):
        yield f"polars reads {rows} rows of it, pyarrow {len(table)}"


def _unknown_to_polars(kind: pa.DataType) -> bool:
    """Whether polars opens no file with a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _unknown_to_polars(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _unknown_to_polars(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return _unknown_to_polars(kind.value_type)
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return any(_unknown_to_polars(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_timestamp(kind):
        return bool(kind.tz == "Z")
    if pa.types.is_decimal(kind):
        return bool(pa.types.is_decimal256(kind) or kind.scale < 0)
    return any(is_kind(kind) for is_kind in _NOT_IN_POLARS)


def _valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
