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
from pipeline.input.formats.text import (
    ShardOffsets,
    TextBlock,
    TextStream,
    blocks_of_cuts,
    check_utf8,
    text_blocks,
)
from pipeline.input.types import merged_type
from pipeline.packing import Int64Array
from pipeline.spec import Cut
from pipeline.store.directory import OpenedFile

_BLANK = frozenset(b" \t\r\n")
_EXACT = 2.0**53  # from here on, floats are further apart than integers
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
        for block in text_blocks(TextStream(self._file, self._compression), self):
            check_utf8(block, offsets.rows)
            offsets.add(block, types.add(_cleaned(block), offsets.rows))
        return FileSummary(
            schema=types.schema(),
            columns=tuple(types.names),
            rows=offsets.rows,
            offsets=tuple(offsets.offsets),
            type_rows=types.rows,
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
    return floats and bool(pc.any(pc.greater_equal(pc.abs(array), _EXACT)).as_py())


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
        columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in schema]
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise refused or error from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


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

    def schema(self) -> pa.Schema:
        return pa.schema(list(self._types.items()))

    def add(self, block: TextBlock, first_row: int) -> dict[str, int]:
        """Widen the types by those of a block; returns the bytes in memory of its columns."""
        rows = [_object(bytes(block.records(i, i + 1)), first_row + i) for i in range(len(block))]
        for row in rows:
            self.names.update(dict.fromkeys(row))
        wanted = self.names if self._columns is None else self._columns
        return {
            name: self._widen(name, [row.get(name) for row in rows], first_row)
            for name in wanted
            if name in self.names
        }

    def _widen(self, name: str, values: list[Any], first_row: int) -> int:
        known, size = self._types.get(name, pa.null()), 0
        try:
            array = pa.array(values)
            wide, size = merged_type(array.type, known), array.nbytes
        except (pa.ArrowException, ValueError, OverflowError):
            wide = None
        if wide is None or wide != known or any(map(_repeats, values)):
            wide = self._widen_by_rows(name, values, first_row)
            size = size or pa.array(values, wide).nbytes
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
                kind = pa.array([value]).type
            wide = merged_type(kind, known)
            if wide is None:
                before = f"{known} in row {self.rows[name]}"
                raise ContentError(f"row {row}: column {name!r} is {kind}, but {before}")
            if wide != known:
                known, self.rows[name] = wide, row
        with content_errors(f"column {name!r} of rows {first_row}-{first_row + len(values) - 1}"):
            pa.array(values, known)
        return known


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
        value = json.loads(line, object_pairs_hook=_note_repeated_key)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"row {row} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ContentError(f"row {row} is a JSON {type(value).__name__}, not an object")
    if isinstance(value, _RepeatedKey):
        raise ContentError(f"row {row} has the key {value.key!r} twice")
    return value
