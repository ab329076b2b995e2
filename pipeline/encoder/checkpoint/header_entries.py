"""The entries of a safetensors header: tensors that fill the file in order, each by its shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.encoder.checkpoint.shown import shown

Shape = tuple[int, ...]
Entry = tuple[str, Shape]  # dtype and shape

# Bytes of a value; of other types, only whether the tensors fill the file is checked.
_ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a header as a dictionary; the format forbids a key that comes twice.

    Raises:
        ValueError: a key comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return found


def header_entries(header: dict[str, Any], data: int) -> dict[str, Entry]:
    """The dtypes and shapes of a parsed header by name.

    Args:
        header: parsed; its `__metadata__` is taken out.
        data: bytes of the file after the header.

    Raises:
        ValueError: the entries do not describe these bytes; an entry that lacks a key or holds
            something else raises KeyError, TypeError or AttributeError.
    """
    header.pop("__metadata__", None)
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for name, published in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = published["data_offsets"]
        dtype, shape = entries[name]
        size = _ITEM_BYTES.get(dtype)
        expected = stop - start if size is None else size * math.prod(shape)
        if start != end or stop - start != expected:
            raise ValueError(
                f"{name} of shape {shown(list(shape))} is said to be at bytes {start} to {stop}, "
                f"where {end} to {shown(end + expected)} is expected"
            )
        end = stop
    if end != data:
        raise ValueError(f"its tensors have {end:,} bytes, the file has {data:,} for them")
    return entries


def _entry(name: str, entry: Mapping[str, Any]) -> Entry:
    shape, dtype = entry["shape"], entry["dtype"]
    if not all(type(n) is int and n >= 0 for n in (*shape, *entry["data_offsets"])):
        raise ValueError(f"shape and data_offsets of {name} must be whole numbers from 0")
    if not isinstance(dtype, str):
        raise ValueError(f"dtype of {name} must be a name")
    return dtype, tuple(shape)
