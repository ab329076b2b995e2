"""CSV with a header line (RFC 4180, and the stray quotes of real files): every column a string.

Where a record ends is decided here with the rules of pyarrow's parser, which reads it: a quote
opens a quoted field only at the start of the field, a doubled one inside stands for itself.
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

from pipeline.input.formats.base import ContentError, FileSummary, content_errors, wanted
from pipeline.input.formats.text import (
    Block,
    Int64Array,
    Offsets,
    TextStream,
    blocks,
    check_utf8,
    located,
)
from pipeline.spec import Cut
from pipeline.store.directory import OpenedFile

# Possessive throughout: no backtracking, so a quote that is not closed is no match at all.
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_RECORD = re.compile(rb"(?:%b,)*+%b(?:\r\n|[\r\n])|(?s:(?P<rest>.+))" % (_FIELD, _FIELD))
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})


class CsvReader:
    """One CSV file; see `Reader`."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        self._file = file
        self._compression = compression
        self._header = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        for block in blocks(TextStream(self._file, self._compression), self):
            with content_errors("the header line"):
                text = bytes(block.records(0, 1)).decode("utf-8").lstrip("\r\n")
            return tuple(next(csv.reader(io.StringIO(text, newline=""))))
        raise ContentError("there is no header line")

    def record_ends(self, data: bytes) -> Int64Array:
        """Ends of records, line breaks inside quotes not among them."""
        ends = [
            match.end()
            for match in _RECORD.finditer(data)
            if match.lastgroup is None and match.group() not in _BLANK
        ]
        return np.array(ends, dtype=np.int64)

    def facts(self, columns: Sequence[str] | None, rows_per_shard: int) -> FileSummary:
        """Count rows, check their fields and find shard offsets in one pass."""
        offsets = Offsets(rows_per_shard)
        for block in self._rows(blocks(TextStream(self._file, self._compression), self)):
            check_utf8(block, offsets.rows)
            self._parse(block, 0, len(block), offsets.rows, self._header[:1])
            offsets.add(block)
        schema = pa.schema([(name, pa.string()) for name in self._header])
        return FileSummary(
            schema=wanted(schema, columns),
            columns=self._header,
            rows=offsets.rows,
            offsets=tuple(offsets.found),
        )

    @staticmethod
    def _rows(found: Iterator[Block]) -> Iterator[Block]:
        """The blocks without the header record."""
        head = next(found)
        if len(head) > 1:
            start = head.start(1)
            yield Block(head.offset + start, head.data[start:], head.ends[1:] - start)
        yield from found

    def batches(
        self, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Parse `batch_rows` records at a time."""
        stream = TextStream(self._file, self._compression)
        for first, block in located(stream, self, cuts):
            for start in range(0, len(block), batch_rows):
                stop = min(start + batch_rows, len(block))
                yield (
                    first + start,
                    self._parse(block, start, stop, first + start, schema.names),
                )

    def _parse(
        self, block: Block, start: int, stop: int, row: int, columns: Sequence[str]
    ) -> pa.RecordBatch:
        """Records [start, stop) of `block`, the first of which is row `row`, as strings."""
        text, bad = block.records(start, stop), list[Any]()
        with content_errors(f"rows {row}-{row + stop - start - 1}"):
            table = pyarrow.csv.read_csv(
                pa.BufferReader(text),
                pyarrow.csv.ReadOptions(
                    column_names=self._header, block_size=text.size + 1, use_threads=False
                ),
                pyarrow.csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=_collector(bad)
                ),
                pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                ),
            )
        if bad:
            raise ContentError(
                f"near row {row + (bad[0].number or 1) - 1}: {bad[0].actual_columns} fields, "
                f"but {bad[0].expected_columns} in the header"
            )
        if table.num_rows != stop - start:
            raise ContentError(
                f"rows {row}-{row + stop - start - 1} are {table.num_rows} rows to the parser: "
                "check the quotes there"
            )
        return table.combine_chunks().to_batches()[0]


def _collector(bad: list[Any]) -> Any:
    def collect(row: Any) -> str:
        bad.append(row)
        return "skip"

    return collect
