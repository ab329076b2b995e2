"""CSV with a header line (RFC 4180, and stray quotes as in real files); all columns are strings.

Record ends are found here, by the same rules as those of pyarrow's parser, which then reads the
records: a quote opens a quoted field only at the start of the field, and a doubled quote inside
stands for one quote.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.input.formats.base import ContentError, FileSummary, content_errors, select_fields
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

# Nothing backtracks, so that an unclosed quote does not match at all. Repeated groups are
# `(?>(?:...)*)` and not `(?:...)*+`, which Python before 3.11.5 matches wrongly
# (https://github.com/python/cpython/issues/106052).
_FIELD = rb'(?:"[^"]*+(?>(?:""[^"]*+)*)"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_RECORD = re.compile(rb"(?>(?:%b,)*)%b(?:\r\n|[\r\n])|(?s:(?P<incomplete>.+))" % (_FIELD, _FIELD))
# A field of a record: if it is quoted, the text in it, and what comes after it.
_QUOTED = re.compile(
    rb'(?:\A[\r\n]*|,)(?:"(?P<text>[^"]*+(?>(?:""[^"]*+)*))"(?P<after>[^,\r\n]*+)'
    rb'|(?!")[^,\r\n]*+)'
)
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})
_ESCAPED = b'\\"'
_NO_ESCAPES = (
    'a quote seems to be written as \\", but in a quoted field it is "": write the file again, for '
    "example with DuckDB: COPY (FROM read_csv('in.csv', escape='\\')) TO 'out.parquet'"
)


class CsvReader:
    """One CSV file; see `Reader`."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        self._file = file
        self._compression = compression
        self._header = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        for block in text_blocks(TextStream(self._file, self._compression), self):
            with content_errors("the header line"):
                text = bytes(block.records(0, 1)).decode("utf-8").lstrip("\r\n")
            return tuple(next(csv.reader(io.StringIO(text, newline=""))))
        raise ContentError("there is no header line")

    def record_ends(self, data: bytes) -> Int64Array:
        """Ends of records; line breaks inside quotes are not record ends."""
        ends = [
            match.end()
            for match in _RECORD.finditer(data)
            if match.lastgroup is None and match.group() not in _BLANK
        ]
        return np.array(ends, dtype=np.int64)

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count rows, check their number of fields and collect shard offsets in one pass."""
        sized = [name for name in columns or () if self._header.count(name) == 1]
        offsets = ShardOffsets(rows_per_shard, sized)
        for block in self._without_header(
            text_blocks(TextStream(self._file, self._compression), self)
        ):
            check_utf8(block, offsets.rows)
            _check_escapes(block, offsets.rows)
            rows = self._parse(block, 0, len(block), offsets.rows, sized or self._header[:1])
            offsets.add(block, {name: rows.column(name).nbytes for name in sized})
        schema = pa.schema([(name, pa.string()) for name in self._header])
        return FileSummary(
            schema=select_fields(schema, columns),
            columns=self._header,
            rows=offsets.rows,
            offsets=tuple(offsets.offsets),
            sizes=offsets.sizes,
        )

    @staticmethod
    def _without_header(blocks: Iterator[TextBlock]) -> Iterator[TextBlock]:
        """Drop the first record, which is the header."""
        head = next(blocks)
        if len(head) > 1:
            start = head.start(1)
            yield TextBlock(head.offset + start, head.data[start:], head.ends[1:] - start)
        yield from blocks

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Parse `batch_rows` records at a time."""
        stream = TextStream(self._file, self._compression)
        for first, block in blocks_of_cuts(stream, self, cuts):
            for start in range(0, len(block), batch_rows):
                stop = min(start + batch_rows, len(block))
                yield (
                    first + start,
                    self._parse(block, start, stop, first + start, schema.names),
                )

    def _parse(
        self, block: TextBlock, start: int, stop: int, row: int, columns: Sequence[str]
    ) -> pa.RecordBatch:
        """Records [start, stop) of `block` as strings; the first one is row `row` of the file."""
        text, invalid_rows = block.records(start, stop), list[Any]()
        with content_errors(f"rows {row}-{row + stop - start - 1}"):
            table = pyarrow.csv.read_csv(
                pa.BufferReader(text),
                pyarrow.csv.ReadOptions(
                    column_names=self._header, block_size=text.size + 1, use_threads=False
                ),
                pyarrow.csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=_collector(invalid_rows)
                ),
                pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                ),
            )
        if invalid_rows:
            invalid = invalid_rows[0]
            raise ContentError(
                f"near row {row + (invalid.number or 1) - 1}: {invalid.actual_columns} fields, "
                f"but {invalid.expected_columns} in the header"
                + (f" ({_NO_ESCAPES})" if _ESCAPED.decode() in (invalid.text or "") else "")
            )
        if table.num_rows != stop - start:
            raise ContentError(
                f"rows {row}-{row + stop - start - 1} were parsed as {table.num_rows} rows: "
                "check their quotes"
            )
        return table.combine_chunks().to_batches()[0]


def _check_escapes(block: TextBlock, first_row: int) -> None:
    """Refuse quotes that are escaped: the fields after them would be garbage.

    A quote after a backslash is fine at the end of a field, and so are two; but where text follows
    the quote that closes a field with one of them in it, it closes nothing.
    """
    if _ESCAPED not in block.data:
        return
    for row in range(len(block)):
        record = bytes(block.records(row, row + 1))
        if _ESCAPED in record and any(map(_has_escape, _QUOTED.finditer(record))):
            raise ContentError(
                f"row {first_row + row} (byte {block.offset + block.start(row)}): {_NO_ESCAPES}"
            )


def _has_escape(field: re.Match[bytes]) -> bool:
    quoted = field["text"] is not None
    return quoted and _ESCAPED in field["text"] + b'"' and bool(field["after"].strip())


def _collector(rows: list[Any]) -> Any:
    def collect(row: Any) -> str:
        rows.append(row)
        return "skip"

    return collect
