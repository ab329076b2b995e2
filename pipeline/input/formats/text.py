"""Text formats: decompressed, split into whole records, counted, and read from byte offsets.

JSONL and CSV differ in where a record ends and in how records become columns (`Grammar`); the
rest is here. Memory is bounded by one block, which grows only for a record longer than it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.input.formats.base import ContentError, content_errors, overlaps
from pipeline.spec import Cut
from pipeline.store.directory import OpenedFile

Int64Array = npt.NDArray[np.int64]

_BLOCK_BYTES = 1 << 20
# Beyond this it is no record but a quote that was never closed, or not text at all.
_RECORD_MAX_BYTES = 64 << 20
_UTF8_BOM = b"\xef\xbb\xbf"


class Grammar(Protocol):
    """Where the records of a text format end."""

    def record_ends(self, data: bytes) -> Int64Array:
        """Ends (exclusive, behind the line break) of the complete, non-blank records."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, and where they stand."""

    offset: int  # bytes of uncompressed text before the block
    data: bytes
    ends: Int64Array  # [rows], relative to the block

    def __len__(self) -> int:
        """Records in the block."""
        return int(self.ends.size)

    def start(self, row: int) -> int:
        """Where record `row` (or the blank lines before it) starts, relative to the block."""
        return int(self.ends[row - 1]) if row else 0

    def records(self, start: int, stop: int) -> Any:
        """The text of records [start, stop) as a pyarrow buffer, not copied."""
        first = self.start(start)
        return pa.py_buffer(self.data).slice(first, self.start(stop) - first)


class TextStream:
    """The uncompressed bytes of a text file, one way."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        file.seek(0)
        self._file = file
        self.compressed = bool(compression)
        self._stream: Any = file
        if compression:
            # Notices a truncated member or frame, reads several in a row.
            self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        self.offset = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        with content_errors(f"after {self.offset} bytes of text"):
            data: bytes = self._stream.read(size)
        self.offset += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        """Move forward: by seeking, or through compressed text by reading it."""
        if not self.compressed:
            self._file.seek(offset)
            self.offset = offset
        while self.offset < offset and self.read(min(_BLOCK_BYTES, offset - self.offset)):
            pass


def blocks(stream: TextStream, grammar: Grammar) -> Iterator[Block]:
    """Split what is left of `stream` into blocks of whole records."""
    offset, held, size = stream.offset, b"", _BLOCK_BYTES
    while True:
        chunk = stream.read(size)
        data = held + chunk
        if offset == 0 and data.startswith(_UTF8_BOM):
            data, offset = data[len(_UTF8_BOM) :], len(_UTF8_BOM)
        if not chunk:
            data = _closed(data)
        ends = grammar.record_ends(data)
        used = int(ends[-1]) if ends.size else 0
        if used:
            yield Block(offset, data[:used], ends)
        held, offset = data[used:], offset + used
        if not chunk:
            if held.strip():
                raise ContentError(f"the record at byte {offset} never ends: a quote is not closed")
            return
        if len(held) > _RECORD_MAX_BYTES:
            raise ContentError(
                f"the record at byte {offset} is longer than {_RECORD_MAX_BYTES >> 20} MB: "
                "perhaps a quote is not closed"
            )
        size = max(_BLOCK_BYTES, len(held))


def _closed(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def check_utf8(block: Block, first_row: int) -> None:
    """Raise where the block is not UTF-8, naming the row."""
    try:
        block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = first_row + int(np.searchsorted(block.ends, error.start, side="right"))
        raise ContentError(
            f"row {row} is not UTF-8 (byte {block.offset + error.start}): convert the file, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error


class Offsets:
    """Collects the byte offset of every `step`-th row while blocks go by."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.rows = 0
        self.found: list[int] = []

    def add(self, block: Block) -> None:
        first = -self.rows % self._step
        self.found += [block.offset + block.start(i) for i in range(first, len(block), self._step)]
        self.rows += len(block)


def located(
    stream: TextStream, grammar: Grammar, cuts: Sequence[Cut]
) -> Iterator[tuple[int, Block]]:
    """(first row, block) over the rows of `cuts`, going straight to each run of them.

    Compressed text cannot go back over what was read ahead: there it is one run, gaps included.
    """
    for run in [list(cuts)] if stream.compressed else _runs(cuts):
        stream.skip_to(run[0].byte_offset)
        row, end = run[0].first_row, run[-1].first_row + run[-1].rows
        for block in blocks(stream, grammar):
            if overlaps(row, len(block), run):
                # Not beyond the run: rows behind it may belong to the next one.
                yield row, replace(block, ends=block.ends[: end - row])
            row += len(block)
            if row >= end:
                break


def _runs(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    """Group cuts that follow each other without a gap."""
    run: list[Cut] = []
    for cut in cuts:
        if run and run[-1].first_row + run[-1].rows != cut.first_row:
            yield run
            run = []
        run.append(cut)
    if run:
        yield run
