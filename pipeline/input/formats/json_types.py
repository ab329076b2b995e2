"""Lines of JSON → the types of their columns, and the rows that gave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.input.formats.base import ContentError, content_errors
from pipeline.input.formats.invalid_text import is_text, readable_value
from pipeline.input.formats.json_object import json_object, repeated_key, repeats
from pipeline.input.formats.text import TextBlock
from pipeline.input.types import EXACT, merged_type

_TOO_LARGE = "an integer beyond 64 bits: write it as a text, in quotes"


class JsonTypes:
    """Names and types of columns, widened block by block."""

    def __init__(self, columns: Sequence[str] | None) -> None:
        self._columns = columns
        self._types: dict[str, pa.DataType] = {}
        self.names: dict[str, None] = {}
        self.rows: dict[str, int] = {}  # column → the first row that gave it its type
        self.large: dict[str, int] = {}  # column → the first row with an integer beyond EXACT

    def schema(self) -> pa.Schema:
        return pa.schema(list(self._types.items()))

    def add(self, block: TextBlock, first_row: int, *, invalid: bool) -> dict[str, int]:
        """Widen the types by those of a block; returns the bytes in memory of its columns."""
        lines = (bytes(block.records(i, i + 1)) for i in range(len(block)))
        rows = [json_object(line, row) for row, line in enumerate(lines, first_row)]
        for row in rows:
            self.names.update(dict.fromkeys(filter(is_text, row) if invalid else row))
        sizes = {}
        for name in self.names if self._columns is None else self._columns:
            if name in self.names:
                values = [row.get(name) for row in rows]
                values = _readable(values, name, first_row) if invalid else values
                sizes[name] = self._widen(name, values, first_row)
        return sizes

    def _note_large(self, name: str, values: list[Any], first_row: int) -> None:
        for row, value in enumerate(values, first_row):
            if type(value) is int and abs(value) > EXACT:
                self.large[name] = row
                return

    def _refuse_rounding(self, name: str, kind: pa.DataType) -> None:
        if name in self.large and pa.types.is_floating(kind):
            raise ContentError(
                f"row {self.large[name]}: column {name!r} has an integer beyond 2**53, which no "
                f"float may hold, but is {kind} in row {self.rows[name]}"
            )

    def _widen(self, name: str, values: list[Any], first_row: int) -> int:
        known, size = self._types.get(name, pa.null()), 0
        if name not in self.large:
            self._note_large(name, values, first_row)
        try:
            array = pa.array(values)
            wide, size = merged_type(array.type, known), array.nbytes
        except (pa.ArrowException, ValueError, OverflowError):
            wide = None
        if wide is None or wide != known or any(map(repeats, values)):
            wide = self._widen_by_rows(name, values, first_row)
            size = size or pa.array(values, wide).nbytes
        self._refuse_rounding(name, wide)
        self._types[name] = wide
        return size

    def _widen_by_rows(self, name: str, values: list[Any], first_row: int) -> pa.DataType:
        """The same, one by one, so that the row is known that has another type."""
        known = self._types.get(name, pa.null())
        for row, value in enumerate(values, first_row):
            if value is None:
                continue
            if key := repeated_key(value):
                raise ContentError(f"row {row}: column {name!r} has the key {key!r} twice")
            with content_errors(f"row {row}: column {name!r}"):
                kind = _type_of(value)
            wide = merged_type(kind, known)
            if wide is None:
                before = f"{known} in row {self.rows[name]}"
                raise ContentError(f"row {row}: column {name!r} is {kind}, but {before}")
            if wide != known:
                known, self.rows[name] = wide, row
        self._refuse_rounding(name, known)
        with content_errors(f"column {name!r} of rows {first_row}-{first_row + len(values) - 1}"):
            pa.array(values, known)
        return known


def _readable(values: list[Any], name: str, first_row: int) -> list[Any]:
    readable = []
    for row, value in enumerate(values, first_row):
        try:
            readable.append(readable_value(value))
        except ContentError as error:
            raise ContentError(f"row {row}: column {name!r}: {error}") from error
    return readable


def _type_of(value: Any) -> pa.DataType:
    try:
        return pa.array([value]).type
    except (OverflowError, pa.ArrowInvalid) as error:
        if _beyond_64_bits(value):
            raise ValueError(_TOO_LARGE) from error
        raise


def _beyond_64_bits(value: Any) -> bool:
    """Whether there is such an integer in a value, at any depth."""
    if isinstance(value, int):
        return not -(2**63) <= value < 2**63
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_beyond_64_bits, inner))
