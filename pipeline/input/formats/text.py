"""Text formats: decompressed, split into whole records, counted, and read from byte offsets.

JSONL and CSV differ in where a record ends (`Grammar`) and in how records become columns; what
they share is here. Memory is bounded by one text block, which grows only for a longer record.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.input.formats.base import ContentError, content_errors, overlaps
from pipeline.input.formats.sizes import BATCH_BYTES, SizeCounter, Sizes
from pipeline.input.formats.xz import XzStream
from pipeline.packing import Int64Array
from pipeline.shards import Cut
from pipeline.store.directory import OpenedFile

_BLOCK_BYTES = 1 << 20
# A longer record is taken for an unclosed quote, or for a file that is not text.
_RECORD_MAX_BYTES = 64 << 20
# Of text in a row, beyond which the results of few rows may be too many for a part.
_WIDE_ROW_BYTES = 1536
_UTF8_BOM = b"\xef\xbb\xbf"


class Grammar(Protocol):
    """Where the records of a text format end."""

    def record_ends(self, data: bytes) -> Int64Array:
        """Ends (exclusive, after the line break) of the complete, non-blank records."""
        ...


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Consecutive whole records of a text file."""

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
    """The uncompressed bytes of a text file, read forwards only."""

    def __init__(self, file: OpenedFile, compression: str) -> None:
        file.seek(0)
        self._file = file
        self.compressed = bool(compression)
        self._stream: Any = file
        if compression == "xz":
            self._stream = XzStream(file)
        elif compression:
            # Raises on a truncated gzip member or zstd frame, and reads consecutive ones.
            self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        self.offset = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        with content_errors(f"after {self.offset} bytes of text"):
            data: bytes = self._stream.read(size)
        self.offset += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        """Move forward: by seeking, or in compressed text by reading up to `offset`."""
        if not self.compressed:
            self._file.seek(offset)
            self.offset = offset
        while self.offset < offset and self.read(min(_BLOCK_BYTES, offset - self.offset)):
            pass


def text_blocks(stream: TextStream, grammar: Grammar) -> Iterator[TextBlock]:
    """Split `stream`, from its current offset on, into blocks of whole records."""
    offset, incomplete, size = stream.offset, b"", _BLOCK_BYTES
    while True:
        new = stream.read(size)
        data = incomplete + new
        if offset == 0 and data.startswith(_UTF8_BOM):
            data, offset = data[len(_UTF8_BOM) :], len(_UTF8_BOM)
        if not new:
            data = _with_final_newline(data)
        ends = grammar.record_ends(data)
        used = int(ends[-1]) if ends.size else 0
        if used:
            yield TextBlock(offset, data[:used], ends)
        incomplete, offset = data[used:], offset + used
        if not new:
            if incomplete.strip():
                raise ContentError(
                    f"the record at byte {offset} never ends: a quote is not closed, "
                    'or quotes are written as \\" and not as "" (see --csv-escape)'
                )
            return
        if len(incomplete) > _RECORD_MAX_BYTES:
            raise ContentError(
                f"the record at byte {offset} is longer than {_RECORD_MAX_BYTES >> 20} MiB: a "
                "quote may not be closed, or the file is one JSON document and not JSON Lines"
            )
        size = max(_BLOCK_BYTES, len(incomplete))


def _with_final_newline(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def check_utf8(block: TextBlock, first_row: int) -> None:
    """Check that a block is UTF-8.

    Raises:
        ContentError: it is not; the message names the row, `first_row` being the block's first.
    """
    try:
        block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = first_row + int(np.searchsorted(block.ends, error.start, side="right"))
        raise ContentError(
            f"row {row} is not UTF-8 (byte {block.offset + error.start}): convert the file, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error


class ShardOffsets:
    """Collects the byte offset of every `rows_per_shard`-th row and sizes, block by block.

    Args:
        rows_per_shard: see `Reader.summarize`.
        columns: whose sizes are known.
    """

    def __init__(self, rows_per_shard: int, columns: Sequence[str]) -> None:
        self._step = rows_per_shard
        # Where few rows make a part, little text may make one too.
        self._together = min(BATCH_BYTES, rows_per_shard * _WIDE_ROW_BYTES)
        self._counter = SizeCounter(columns, self._together)
        self.rows = 0
        self.offsets: list[int] = []

    def add(self, block: TextBlock, sizes: Mapping[str, int]) -> None:
        """The next block; `sizes` are the bytes in memory of its columns."""
        firsts = range(-self.rows % self._step, len(block), self._step)
        self.offsets += [block.offset + block.start(row) for row in firsts]
        wide = len(block.data) > 2 * _BLOCK_BYTES  # it grew for a long record
        sized = np.arange(self._together, len(block.data), self._together)
        between = np.minimum(np.searchsorted(block.ends, sized) + 1, len(block)).tolist()
        bounds = range(len(block) + 1) if wide else sorted({0, *firsts, *between, len(block)})
        for start, stop in itertools.pairwise(bounds):
            share = (block.start(stop) - block.start(start)) / block.start(len(block))
            self._counter.add(
                stop - start,
                {name: round(size * share) for name, size in sizes.items()},
                offset=block.offset + block.start(start),
                apart=start in firsts,
            )
        self.rows += len(block)

    @property
    def sizes(self) -> Sizes:
        """Of all blocks; every `rows_per_shard`-th row begins a stretch."""
        return self._counter.sizes()


def blocks_of_cuts(
    stream: TextStream, grammar: Grammar, cuts: Sequence[Cut]
) -> Iterator[tuple[int, TextBlock]]:
    """(first row, block) over the rows of `cuts`, skipping to each run of adjacent cuts.

    Compressed text cannot seek back over what was read ahead, so its cuts are one run, including
    the gaps between them.
    """
    for run in [list(cuts)] if stream.compressed else _runs(cuts):
        stream.skip_to(run[0].byte_offset)
        row, end = run[0].first_row, run[-1].end
        for block in text_blocks(stream, grammar):
            if overlaps(row, len(block), run):
                # Rows after the run may belong to the next one, which yields them.
                yield row, replace(block, ends=block.ends[: end - row])
            row += len(block)
            if row >= end:
                break


def _runs(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    """Group cuts that follow one another without a gap."""
    run: list[Cut] = []
    for cut in cuts:
        if run and run[-1].end != cut.first_row:
            yield run
            run = []
        run.append(cut)
    if run:
        yield run
