"""CSV with a header line (RFC 4180, and stray quotes as in real files); all columns are strings.
TSV is the same with tabs.

Record ends are found here, by the same rules as those of pyarrow's parser, which then reads the
records: a quote opens a quoted field only at the start of the field, and a doubled quote inside
stands for one quote. With `--csv-escape`, any character after that one stands for itself, in quotes
or not.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.input.formats.base import ContentError, FileSummary, content_errors, select_fields
from pipeline.input.formats.invalid_text import InvalidRows, with_question_marks
from pipeline.input.formats.text import (
    ShardOffsets,
    TextBlock,
    TextStream,
    blocks_of_cuts,
    text_blocks,
)
from pipeline.packing import Int64Array
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile

# Nothing backtracks, so that an unclosed quote does not match at all. Repeated groups are
# `(?>(?:...)*)` and not `(?:...)*+`, which Python before 3.11.5 matches wrongly
# (https://github.com/python/cpython/issues/106052).
_FIELD = rb'(?:"[^"]*+(?>(?:""[^"]*+)*)"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_ESCAPING_FIELD = (
    rb'(?:"[^"%(e)b]*+(?>(?:(?:""|%(e)b(?s:.))[^"%(e)b]*+)*)"%(plain)b|(?!")%(plain)b)'
)
_ESCAPING_PLAIN = rb"(?>(?:[^,\r\n%(e)b]++|%(e)b(?s:.))*)"
_RECORD = rb"(?>(?:%b,)*)%b(?:\r\n|[\r\n])|(?s:(?P<incomplete>.+))"
# A field of a record: if it is quoted, the text in it, and what comes after it.
_QUOTED = re.compile(
    rb'(?:\A[\r\n]*|,)(?:"(?P<text>[^"]*+(?>(?:""[^"]*+)*))"(?P<after>[^,\r\n]*+)'
    rb'|(?!")[^,\r\n]*+)'
)
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})
_ESCAPED = b'\\"'
_NO_ESCAPES = (
    'a quote seems to be written as \\", but in a quoted field it is "": if a backslash is what '
    "escapes quotes in this file, give --csv-escape '\\'"
)


class CsvReader:
    """One CSV file; see `Reader`."""

    def __init__(
        self, file: OpenedFile, compression: str, delimiter: str = ",", escape: str = ""
    ) -> None:
        self._file = file
        self._compression = compression
        self._delimiter = delimiter
        self._escape = escape
        self._record = _between(delimiter, _records(escape))
        self._header = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        for block in text_blocks(TextStream(self._file, self._compression), self):
            with content_errors("the header line"):
                text = bytes(block.records(0, 1)).decode("utf-8").lstrip("\r\n")
                lines = io.StringIO(text, newline="")
                escape = self._escape or None
                return tuple(next(csv.reader(lines, delimiter=self._delimiter, escapechar=escape)))
        raise ContentError("there is no header line")

    def record_ends(self, data: bytes) -> Int64Array:
        """Ends of records; line breaks inside quotes are not record ends."""
        ends = [
            match.end()
            for match in self._record.finditer(data)
            if match.lastgroup is None and match.group() not in _BLANK
        ]
        return np.array(ends, dtype=np.int64)

    def summarize(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count rows, check their number of fields and collect shard offsets in one pass."""
        sized = [name for name in columns or () if self._header.count(name) == 1]
        offsets, invalid = ShardOffsets(rows_per_shard, sized), InvalidRows()
        for block in self._without_header(
            text_blocks(TextStream(self._file, self._compression), self)
        ):
            # pyarrow decodes the records that it refuses.
            readable = with_question_marks(block) if invalid.add(block, offsets.rows) else block
            if not self._escape:
                _check_escapes(block, offsets.rows, _between(self._delimiter, _QUOTED))
            rows = self._parse(readable, 0, len(block), offsets.rows, sized or self._header[:1])
            offsets.add(block, {name: rows.column(name).nbytes for name in sized})
        invalid.check(offsets.rows)
        schema = pa.schema([(name, pa.string()) for name in self._header])
        return FileSummary(
            schema=select_fields(schema, columns),
            columns=self._header,
            rows=offsets.rows,
            offsets=tuple(offsets.offsets),
            sizes=offsets.sizes,
        )

    def _without_header(self, blocks: Iterator[TextBlock]) -> Iterator[TextBlock]:
        """The blocks without the header; where it names one column, they are checked for that."""
        rows = 0
        for block in _after_first_record(blocks):
            if len(self._header) == 1:
                _check_empty_lines(block, rows)
            rows += len(block)
            yield block

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
                    delimiter=self._delimiter,
                    newlines_in_values=True,
                    escape_char=self._escape or False,
                    invalid_row_handler=_collector(invalid_rows),
                ),
                pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    check_utf8=False,
                ),
            )
        if invalid_rows:
            invalid = invalid_rows[0]
            raise ContentError(
                f"near row {row + (invalid.number or 1) - 1}: {invalid.actual_columns} fields, "
                f"but {invalid.expected_columns} in the header"
                + (f" ({_NO_ESCAPES})" if self._seems_escaped(invalid.text or "") else "")
            )
        if table.num_rows != stop - start:
            raise ContentError(
                f"rows {row}-{row + stop - start - 1} were parsed as {table.num_rows} rows: "
                "check their quotes"
            )
        return table.combine_chunks().to_batches()[0]

    def _seems_escaped(self, record: str) -> bool:
        return not self._escape and _ESCAPED.decode() in record


@cache
def _records(escape: str) -> re.Pattern[bytes]:
    """Complete records, and what is left."""
    field = _FIELD
    if escape:
        char = {b"e": re.escape(escape.encode())}
        field = _ESCAPING_FIELD % {**char, b"plain": _ESCAPING_PLAIN % char}
    return re.compile(_RECORD % (field, field))


def _between(delimiter: str, pattern: re.Pattern[bytes]) -> re.Pattern[bytes]:
    """A pattern of fields between commas, for another delimiter."""
    return re.compile(pattern.pattern.replace(b",", delimiter.encode()))


def _check_escapes(block: TextBlock, first_row: int, quoted: re.Pattern[bytes]) -> None:
    """Refuse quotes that are escaped: the fields after them would be garbage.

    A quote after a backslash is fine at the end of a field, and so are two; but where text follows
    the quote that closes a field with one of them in it, it closes nothing.
    """
    if _ESCAPED not in block.data:
        return
    for row in range(len(block)):
        record = bytes(block.records(row, row + 1))
        if _ESCAPED in record and any(map(_has_escape, quoted.finditer(record))):
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


def _after_first_record(blocks: Iterator[TextBlock]) -> Iterator[TextBlock]:
    head = next(blocks)
    if len(head) > 1:
        start = head.start(1)
        yield TextBlock(head.offset + start, head.data[start:], head.ends[1:] - start)
    yield from blocks


def _check_empty_lines(block: TextBlock, first_row: int) -> None:
    """Refuse an empty line before a row of one column, which may be a row too.

    DuckDB, polars and pyarrow write a null so, and people what they do not see.
    """
    starts = np.concatenate(([0], block.ends[:-1]))
    first_bytes = np.frombuffer(block.data, dtype=np.uint8)[starts]
    after = np.flatnonzero(np.isin(first_bytes, list(b"\r\n")))
    if after.size:
        row = int(after[0])
        raise ContentError(
            f"there is an empty line before row {first_row + row} "
            f"(byte {block.offset + block.start(row)}), and in a file of one column that may be a "
            'row without a text: write "" for it, or remove the line'
        )
