"""JSON Lines: one object per line, blank lines allowed. A missing key is a null.

The counting pass parses every value of the requested columns with the standard library: it can
name the row and column of an error, and a string that looks like a date stays a string. Rows are
then read by pyarrow, with the planned types; what it refuses, though the counting pass did not,
is read by the standard library too (1e400, which is infinite; in a column that nobody needs,
too). Half of a surrogate pair becomes U+FFFD, and a byte order mark before an object is blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from pipeline.input.formats.base import ContentError, FileSummary, content_errors
from pipeline.input.formats.invalid_text import InvalidRows, array_of
from pipeline.input.formats.json_object import json_object
from pipeline.input.formats.json_types import JsonTypes
from pipeline.input.formats.text import (
    ShardOffsets,
    TextBlock,
    TextStream,
    blocks_of_cuts,
    text_blocks,
)
from pipeline.input.types import EXACT
from pipeline.packing import Int64Array
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile

_BLANK = frozenset(b" \t\r\n")
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
        offsets, types = ShardOffsets(rows_per_shard, columns or ()), JsonTypes(columns)
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
    rows = [json_object(bytes(block.records(i, i + 1)), first + i) for i in range(start, stop)]
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
