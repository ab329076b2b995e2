"""JSON Lines: one object per line, blank lines allowed. A missing key is a null.

The counting pass parses every value of the requested columns with the standard library: it can
name the row and column of an error, and a string that looks like a date stays a string. Rows are
then read by pyarrow, with the planned types; what it refuses, though the counting pass did not,
is read by the standard library too (1e400, which is infinite; in a column that nobody needs,
too). Half of a surrogate pair becomes U+FFFD, and a byte order mark before an object is blank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from pipeline.input.formats.base import ContentError, FileSummary, content_errors
from pipeline.input.formats.invalid_text import (
    InvalidRows,
    array_of,
    escaped,
    is_text,
    readable_value,
)
from pipeline.input.formats.text import (
    ShardOffsets,
    TextBlock,
    TextStream,
    blocks_of_cuts,
    text_blocks,
)
from pipeline.input.types import EXACT, merged_type
from pipeline.packing import Int64Array
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile

_BLANK = frozenset(b" \t\r\n")
_TOO_LARGE = "an integer beyond 64 bits: write it as a text, in quotes"
_ARRAY, _OBJECT = (
    "array: make it JSON Lines with jq -c '.[]'",
    "object: make it a line with jq -c .",
)
_NOT_LINES = "; if the file is one JSON %s in.json > out.jsonl, or read_json of polars or DuckDB"
_BOM = re.compile(rb"^\xef\xbb\xbf", re.MULTILINE)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A pair of surrogates, half of one, or the start of any other escape.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


class JsonLinesReader:
    """One JSON Lines file; see `Reader`."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        self._file = file
        self._compression = compression

    def record_ends(self, data: bytes) -> Int64Array:
        """Line breaks, except those of blank lines."""
        data = _BOM.sub(b"   ", data)
        array = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(array == ord("\n")) + 1
        starts = np.concatenate(([0], ends[:-1])) if ends.size else ends
        candidates = np.flatnonzero(np.isin(array[starts], list(_BLANK)))
        blank = [i for i in candidates if not data[starts[i] : ends[i]].strip()]
        return np.delete(ends, blank)

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count rows, infer types and collect shard offsets in one pass."""
        offsets, types = ShardOffsets(rows_per_shard, columns or ()), _Types(columns)
        invalid = InvalidRows()
        for block in text_blocks(TextStream(self._file, self._compression), self):
            bad = invalid.add(block, offsets.rows)
            offsets.add(block, types.add(_cleaned(block), offsets.rows, invalid=bad))
        invalid.check(offsets.rows)
        return FileSummary(
            schema=types.schema(),
            columns=tuple(types.names),
            rows=offsets.rows,
            offsets=tuple(offsets.offsets),
            type_rows=types.rows,
            large_from=types.large,
            sizes=offsets.sizes,
        )

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Parse `batch_rows` lines at a time."""
        parsed = pa.schema([(f.name, _parsed_type(f.type)) for f in schema])
        stream = TextStream(self._file, self._compression)
        for first, block in blocks_of_cuts(stream, self, cuts):
            clean = _cleaned(block)
            for start in range(0, len(block), batch_rows):
                stop = min(start + batch_rows, len(block))
                with content_errors(f"rows {first + start}-{first + stop - 1}"):
                    batch, refused = None, None
                    try:
                        batch = _parse(clean.records(start, stop), stop - start, parsed)
                    except pa.ArrowInvalid as error:
                        refused = error
                    if batch is None or any(map(_may_be_rounded, batch.columns)):
                        batch = _parse_again(clean, start, stop, first, parsed, refused)
                yield first + start, batch


def _cleaned(block: TextBlock) -> TextBlock:
    """The block with what parsers refuse replaced, byte by byte: every offset stays."""
    data = _BOM.sub(b"   ", block.data)
    if _SURROGATE.search(data):
        data = _ESCAPE.sub(lambda escape: rb"\ufffd" if escape["half"] else escape[0], data)
    return replace(block, data=data)


def _parse(text: Any, rows: int, schema: pa.Schema) -> pa.RecordBatch:
    read_options = pyarrow.json.ReadOptions(use_threads=False, block_size=text.size + 1)
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    table = pyarrow.json.read_json(pa.BufferReader(text), read_options, options)
    if table.num_rows != rows:
        raise ContentError(f"{rows} lines hold {table.num_rows} objects: expected one per line")
    return table.combine_chunks().to_batches()[0]


def _may_be_rounded(array: pa.Array) -> bool:
    """Whether it has a float that an integer was rounded to, which pyarrow does without a word."""
    if pa.types.is_struct(array.type):
        return any(map(_may_be_rounded, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _may_be_rounded(array.flatten())
    floats = pa.types.is_floating(array.type)
    return floats and bool(pc.any(pc.greater_equal(pc.abs(array), float(EXACT))).as_py())


def _parse_again(
    block: TextBlock,
    start: int,
    stop: int,
    first: int,
    schema: pa.Schema,
    refused: pa.ArrowInvalid | None,
) -> pa.RecordBatch:
    """Records that pyarrow refuses or rounds, parsed as the counting pass does; else its error."""
    rows = [_object(bytes(block.records(i, i + 1)), first + i) for i in range(start, stop)]
    try:
        columns = [array_of([row.get(f.name) for row in rows], f.type) for f in schema]
    except (pa.ArrowException, ValueError, OverflowError) as error:
        for row, values in enumerate(rows, first + start):
            _check_values(values, row, schema)
        raise refused or error from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_values(values: dict[str, Any], row: int, schema: pa.Schema) -> None:
    for field in schema:
        with content_errors(f"row {row}: column {field.name!r} cannot become {field.type}"):
            array_of([values.get(field.name)], field.type)


def _parsed_type(kind: pa.DataType) -> pa.DataType:
    """The planned type, or a substitute if pyarrow's JSON reader does not support it."""
    if pa.types.is_dictionary(kind):
        return _parsed_type(kind.value_type)
    return pa.string() if kind == pa.string_view() else kind


class _Types:
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
        rows = [_object(bytes(block.records(i, i + 1)), first_row + i) for i in range(len(block))]
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
        if wide is None or wide != known or any(map(_repeats, values)):
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
            if key := _repeated_key(value):
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


class _RepeatedKey(dict[str, Any]):
    """An object in which `key` occurs more than once."""

    key = ""


def _note_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = _RepeatedKey(value)
    names = [name for name, _ in pairs]
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


def _repeats(value: Any) -> bool:
    return isinstance(value, (dict, list)) and bool(_repeated_key(value))


def _repeated_key(value: Any) -> str:
    """A key that is twice in one object of a value, at any depth; "" if there is none."""
    if isinstance(value, _RepeatedKey):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_repeated_key, inner)), "")


def _object(line: bytes, row: int) -> dict[str, Any]:
    try:
        value = json.loads(escaped(line), object_pairs_hook=_note_repeated_key)
    except (ValueError, RecursionError) as error:
        raise ContentError(_not_json(line, row, error)) from error
    if not isinstance(value, dict):
        kind = f"a JSON {type(value).__name__}, not an object"
        raise ContentError(f"row {row} is {kind}{_advice(line, row)}")
    if isinstance(value, _RepeatedKey):
        raise ContentError(f"row {row} has the key {value.key!r} twice")
    return value


def _not_json(line: bytes, row: int, error: Exception) -> str:
    # Python refuses to convert integers of more than 4,300 digits, in words about itself.
    long_number = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
    reason = "a number has thousands of digits" if long_number else error
    problem = "not JSON" if is_text(escaped(line)) else "neither UTF-8 nor JSON"
    return f"row {row} is {problem}: {reason}{_advice(line, row, error)}"


def _advice(line: bytes, row: int, error: Exception | None = None) -> str:
    """What to do about a first line that is an array, or begins an object of several lines."""
    start = line.lstrip()[:1] if row == 0 else b""
    if start == b"[":
        return _NOT_LINES % _ARRAY
    cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip())
    return _NOT_LINES % _OBJECT if start == b"{" and cut else ""
