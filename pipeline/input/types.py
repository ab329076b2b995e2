"""Types of columns by their meaning: which two can be one, and which hold texts."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

# From here on, floats are further apart than integers, and pyarrow casts none of these.
EXACT = 2**53

# Names of one time zone.
_UTC = frozenset({"UTC", "Etc/UTC", "Z", "+00:00", "GMT", "Etc/GMT"})


def merged_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both unchanged; None if there is none.

    It is `other` where they mean the same, and has the spelling and the order of `other`'s fields.
    """
    if one == other or _same_values(one, other):
        return other
    if _in_utc(one) and _in_utc(other):
        one = pa.timestamp(one.unit, other.tz)
    schemas = [pa.schema([("", kind)]) for kind in (other, one)]
    try:
        merged = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    return merged if _holds(merged, one) and _holds(merged, other) else None


def widens(wide: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a planned type may become the wider one: its values read the same, texts as texts.

    So a column of only nulls gets a type, an object a key, and integers become floats, of which
    pyarrow takes only those that are exact.
    """
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    to_bytes = any(is_binary(wide) for is_binary in binary) and is_text(kind)
    return pa.types.is_null(kind) or not to_bytes


def rounds(kind: pa.DataType, wide: pa.DataType) -> bool:
    """Whether integers become floats, which only those up to EXACT do."""
    return bool(pa.types.is_integer(kind) and pa.types.is_floating(wide))


def _same_values(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types differ in their layout alone, and one can be cast to the other.

    Short indices of a dictionary may be too short for what a later file holds.
    """
    if pa.types.is_dictionary(one) and not one.ordered:
        one = one.value_type
    if pa.types.is_dictionary(other) and not other.ordered and other.index_type.bit_width >= 32:
        other = pa.null() if pa.types.is_string_view(one) else other.value_type  # no such cast
    return bool(map_types(one, _plain_layout) == map_types(other, _plain_layout))


def _plain_layout(kind: pa.DataType) -> pa.DataType:
    """The type with the same values in Arrow's first layout: libraries that rewrite a file choose
    others (polars: large strings and large lists).
    """
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return pa.list_(kind.value_field) if pa.types.is_large_list(kind) else kind


def _in_utc(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz in _UTC


def _holds(wide: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a merged type is none that pyarrow rounds to: of decimals, it makes floats."""
    if pa.types.is_decimal(kind):
        return bool(pa.types.is_decimal(wide))
    if pa.types.is_struct(kind):
        return all(_holds(wide.field(field.name).type, field.type) for field in kind)
    if _is_list(kind):
        return _holds(wide.value_type, kind.value_type)
    return True


def is_text(kind: pa.DataType) -> bool:
    """Whether it is a string type of any layout, or null, the type of a column of only nulls."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    kinds = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return any(is_kind(kind) for is_kind in kinds)


def is_texts(kind: pa.DataType) -> bool:
    """Whether it is a type of lists of strings, or null, the type of a column of only nulls.

    List views are excluded: pyarrow 26 casts them to lists with wrong offsets.
    """
    return is_text(kind.value_type) if _is_list(kind) else bool(pa.types.is_null(kind))


def _is_list(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


def map_types(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with `change` applied to it, and to all types within."""
    kind = change(kind)

    def inner(field: pa.Field) -> pa.Field:
        return field.with_type(map_types(field.type, change))

    if pa.types.is_struct(kind):
        return pa.struct([inner(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(inner(kind.key_field), inner(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_field))
    return pa.large_list(inner(kind.value_field)) if pa.types.is_large_list(kind) else kind
