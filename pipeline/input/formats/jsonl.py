"""JSON Lines: one object per line, blank lines allowed. A missing key is a null.

The counting pass parses every value of the requested columns with the standard library: it can
name the row and column of an error, and a string that looks like a date stays a string. Rows are
then read by pyarrow, with the planned types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
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
from pipeline.packing import Int64Array
from pipeline.spec import Cut
from pipeline.store.directory import OpenedFile

_BLANK = frozenset(b" \t\r\n")


class JsonLinesReader:
    """One JSON Lines file; see `Reader`."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        self._file = file
        self._compression = compression

    def record_ends(self, data: bytes) -> Int64Array:
        """Line breaks, except those of blank lines."""
        array = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(array == ord("\n")) + 1
        starts = np.concatenate(([0], ends[:-1])) if ends.size else ends
        candidates = np.flatnonzero(np.isin(array[starts], list(_BLANK)))
        blank = [i for i in candidates if not data[starts[i] : ends[i]].strip()]
        return np.delete(ends, blank)

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count rows, infer types and collect shard offsets in one pass."""
        offsets, types = ShardOffsets(rows_per_shard), _Types(columns)
        for block in text_blocks(TextStream(self._file, self._compression), self):
            check_utf8(block, offsets.rows)
            types.add(block, offsets.rows)
            offsets.add(block)
        return FileSummary(
            schema=types.schema(),
            columns=tuple(types.names),
            rows=offsets.rows,
            offsets=tuple(offsets.offsets),
        )

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Parse `batch_rows` lines at a time."""
        options = pyarrow.json.ParseOptions(
            explicit_schema=pa.schema([(f.name, _parsed_type(f.type)) for f in schema]),
            unexpected_field_behavior="ignore",
        )
        stream = TextStream(self._file, self._compression)
        for first, block in blocks_of_cuts(stream, self, cuts):
            for start in range(0, len(block), batch_rows):
                stop = min(start + batch_rows, len(block))
                with content_errors(f"rows {first + start}-{first + stop - 1}"):
                    yield first + start, _parse(block.records(start, stop), stop - start, options)


def _parse(text: Any, rows: int, options: Any) -> pa.RecordBatch:
    read_options = pyarrow.json.ReadOptions(use_threads=False, block_size=text.size + 1)
    table = pyarrow.json.read_json(pa.BufferReader(text), read_options, options)
    if table.num_rows != rows:
        raise ContentError(f"{rows} lines hold {table.num_rows} objects: expected one per line")
    return table.combine_chunks().to_batches()[0]


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

    def schema(self) -> pa.Schema:
        return pa.schema(list(self._types.items()))

    def add(self, block: TextBlock, first_row: int) -> None:
        rows = [_object(bytes(block.records(i, i + 1)), first_row + i) for i in range(len(block))]
        for row in rows:
            self.names.update(dict.fromkeys(row))
        for name in self.names if self._columns is None else self._columns:
            if name in self.names:
                self._widen(name, [row.get(name) for row in rows], first_row)

    def _widen(self, name: str, values: list[Any], first_row: int) -> None:
        where = f"column {name!r} of rows {first_row}-{first_row + len(values) - 1}"
        with content_errors(where):
            kind = pa.array(values).type
        earlier = self._types.get(name, kind)
        try:
            merged = pa.unify_schemas(
                [pa.schema([(name, earlier)]), pa.schema([(name, kind)])],
                promote_options="permissive",
            )
        except pa.ArrowException as error:
            raise ContentError(f"{where} is {kind}, but {earlier} in the rows before it") from error
        self._types[name] = merged.field(0).type


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
