"""Rows that are not UTF-8: each an error of its own, unless the whole file is no such text.

Readers hand the bytes out as they are, as Parquet's does; where output rows are built, each such
row becomes an error (`pipeline.output.readable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.input.formats.base import ContentError
from pipeline.input.formats.text import TextBlock, check_utf8
from pipeline.spec import MAX_FAILED_ROWS, failure_budget


class InvalidRows:
    """Counts the rows of a file that are not UTF-8."""

    def __init__(self) -> None:
        self._count = 0
        self._first: ContentError | None = None

    def add(self, block: TextBlock, first_row: int) -> bool:
        """Whether a block has such rows; `first_row` is the number of its first row.

        Raises:
            ContentError: it is in another encoding, such as UTF-16, or no text.
        """
        try:
            check_utf8(block, first_row)
            return False
        except ContentError as error:
            if b"\0" in block.data:
                raise
            self._first = self._first or error
        before, after = (
            np.frombuffer(one.data, dtype=np.uint8) for one in (block, with_question_marks(block))
        )
        rows = np.searchsorted(block.ends, np.flatnonzero(before != after), side="right")
        self._count += np.unique(rows).size
        return True

    def check(self, rows: int) -> None:
        """Refuse a file with more such rows than may fail by default: it is in another encoding.

        Raises:
            ContentError: the message names the first of them.
        """
        if self._first is not None and self._count > failure_budget(MAX_FAILED_ROWS, rows):
            raise ContentError(f"{self._count:,} of {rows:,} rows are not UTF-8; {self._first}")


def with_question_marks(block: TextBlock) -> TextBlock:
    """The block with "?" for each byte that is not UTF-8: every offset stays."""
    return replace(block, data=escaped(block.data).encode("utf-8", "replace"))


def escaped(text: bytes) -> str:
    """UTF-8 as a string, with half of a surrogate pair for each byte that is none."""
    return text.decode("utf-8", "surrogateescape")


def readable_value(value: Any) -> Any:
    """A JSON value with "?" for each byte of its strings that is not UTF-8.

    Raises:
        ContentError: a key is not UTF-8: its value would be lost.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [readable_value(one) for one in value]
    if isinstance(value, dict):
        if not all(map(is_text, value)):
            raise ContentError("a key in it is not UTF-8")
        for key in value:  # in place: it may be of a class of its own
            value[key] = readable_value(value[key])
    return value


def is_text(key: str) -> bool:
    """Whether a string is not `escaped`."""
    return key.isascii() or key == key.encode("utf-8", "replace").decode()


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array of values whose strings may be `escaped`: these get their bytes back."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        encoded = pa.array([_encoded(value) for value in values], _as_bytes(kind))
    options = pc.CastOptions(kind, allow_invalid_utf8=True)
    return pc.cast(encoded, options=options)


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    if isinstance(value, dict):
        return {key: _encoded(one) for key, one in value.items()}
    return value


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with bytes for strings, at any depth that JSON has."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_bytes(field.type)) for field in kind])
    return kind
