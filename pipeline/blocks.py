"""Read and tokenize: shards → blocks of tokenized rows, ahead of the device.

The rows of a block are sorted and packed together. A block may hold rows of several shards and
files, so that many small files still make full batches. Its slices say which rows belong to which
shard, and which of them are not computed: because an earlier attempt saved them, because they are
refused, or because this attempt leaves them out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.known_rows import KnownRows, RowResults
from pipeline.output.row_ranges import Places, Rows
from pipeline.output.run import Run
from pipeline.prefetch import map_in_order
from pipeline.shards import Shard
from pipeline.slices import Fates, ShardSlice, computed_slices, read_slices
from pipeline.stage_times import stage_times
from pipeline.tasks import Task
from pipeline.tokenize.tokens import Tokens, no_tokens

# The first block is small so that the device starts at once; each next one is twice as large.
_FIRST_BLOCK_ROWS = 256
# Large enough that sorted batches have sequences of almost equal length.
_BLOCK_ROWS = 16_384
# Text and outputs of a block, whatever its number of rows: bounds the memory for long documents
# and for wide vectors.
_BLOCK_BYTES = 32 * 2**20
# Bytes of text, of four to a token, that even a blank text counts as where each token has a vector:
# special tokens, and those that fill a query up.
_LEAST_TEXT = 128
# Blocks that wait between two stages have about so many bytes at most, and one of any size may.
QUEUED_BYTES = _BLOCK_BYTES

Tokenize = Callable[[pa.RecordBatch], Tokens]


class Watch(Protocol):
    """Called around everything that may end the process, with the rows that it is done to."""

    def begin(self, key: str, places: Places) -> None:
        """Something is about to be done to these rows; `key` is unique until it is done."""
        ...

    def end(self, key: str) -> None:
        """It is done."""
        ...


class NoWatch:
    """Nobody wants to know."""

    def begin(self, key: str, places: Places) -> None:
        """Do nothing."""

    def end(self, key: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one or more shards, in input order; R of them, of which U are tokenized."""

    slices: tuple[ShardSlice, ...]
    rows: pa.RecordBatch  # [R] of the slices that are computed
    texts: pa.RecordBatch  # [U] what the task reads of the rows that are tokenized
    tokens: Tokens  # of these
    results: RowResults
    number: int = 0

    @property
    def nbytes(self) -> int:
        """What its rows hold in memory."""
        return int(self.rows.nbytes)


class RowPlaces:
    """Where the rows of a block come from."""

    def __init__(self, slices: Sequence[ShardSlice]) -> None:
        computed = computed_slices(slices)
        numbers = [item.numbers for item in computed]
        sizes = [rows.size for rows in numbers]
        self._shards = [item.shard.id for item in computed]
        self._slice = np.repeat(np.arange(len(computed)), sizes)
        self._number = np.concatenate([*numbers, np.zeros(0, dtype=np.int64)])

    def of(self, rows: Rows) -> Places:
        """Shards and row numbers of rows of the block; `rows` is ascending."""
        slices, numbers = self._slice[rows], self._number[rows]
        starts = np.flatnonzero(np.diff(slices, prepend=-1))
        places: dict[str, list[Rows]] = {}
        for start, stop in itertools.pairwise([*starts, len(rows)]):
            shard = self._shards[slices[start]]
            places.setdefault(shard, []).append(numbers[start:stop])
        return {shard: np.concatenate(parts) for shard, parts in places.items()}


def read_blocks(
    run: Run,
    shards: Sequence[Shard],
    task: Task,
    width: int,
    known: KnownRows,
    *,
    threads: int = 1,
    fates: Fates | None = None,
    watch: Watch | None = None,
    tokenize: Tokenize | None = None,
) -> Iterator[Block]:
    """Tokenize the rows of `shards`, block by block, `threads` blocks at once.

    Args:
        run: of the shards.
        shards: in input order.
        task: of the run.
        width: number of output values per sequence, or per token.
        known: says which rows need no computing.
        threads: blocks that are tokenized at once.
        fates: of the rows that are not computed.
        watch: told about the rows of each block around its tokenization.
        tokenize: does what the task's own method does, in its place.
    """
    told, tokens_of = watch or NoWatch(), tokenize or task.tokenize
    groups = _resolved(enumerate(_groups(run, shards, task, width, fates or {})), known)
    groups = stage_times.each("read", groups)
    return map_in_order(lambda item: _block(*item, run, task, told, tokens_of), groups, threads)


def _resolved(
    groups: Iterable[tuple[int, list[ShardSlice]]], known: KnownRows
) -> Iterator[tuple[int, list[ShardSlice], RowResults]]:
    """The slices of each block, and where their results come from; one block after another."""
    for number, slices in groups:
        computed = ((item.shard, item.first, item.rows) for item in computed_slices(slices))
        yield number, slices, known.resolve(number, list(computed))


def _groups(
    run: Run, shards: Sequence[Shard], task: Task, width: int, fates: Fates
) -> Iterator[list[ShardSlice]]:
    """The slices of each block."""
    slices: list[ShardSlice] = []
    rows, size, target_rows = 0, 0, _FIRST_BLOCK_ROWS
    for shard_slice in read_slices(run, shards, fates):
        if slices and shard_slice.rows is not None and shard_slice.rows.nbytes > _BLOCK_BYTES:
            yield slices  # a row of such a size is a block of its own
            slices, rows, size = [], 0, 0
        slices.append(shard_slice)
        if shard_slice.rows is not None:
            rows += shard_slice.rows.num_rows
            size += _memory_bytes(shard_slice.rows, task, width)
        if rows >= target_rows or size >= _BLOCK_BYTES:
            yield slices
            slices, rows, size = [], 0, 0
            target_rows = min(2 * target_rows, _BLOCK_ROWS)
    if slices:
        yield slices


def _memory_bytes(rows: pa.RecordBatch, task: Task, width: int) -> int:
    """Estimated memory of rows: their text and their float32 outputs."""
    text = int(rows.nbytes)
    if task.per_token:  # a token is about four bytes of text and has `width` outputs of four bytes
        return text + text * width
    further = text // task.output_text_bytes if task.output_text_bytes else 0
    outputs = (rows.num_rows + further) * width * 4
    return int(text + outputs + (text + rows.num_rows * _LEAST_TEXT) * task.token_values)


def _block(
    number: int,
    slices: list[ShardSlice],
    results: RowResults,
    run: Run,
    task: Task,
    watch: Watch,
    tokenize: Tokenize,
) -> Block:
    batches = [item.rows for item in computed_slices(slices)]
    table = pa.Table.from_batches(batches, run.columns).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else _no_rows(run.columns)
    texts = rows
    if not results.plain:
        columns = rows.select(dict.fromkeys(task.columns_read(run.spec)))
        texts = columns.take(pa.array(results.computed))
    held = tuple(_taken_from(rows, slices))
    slices.clear()  # whoever made the list still refers to it, and would hold what was read
    del batches, table
    block = Block(held, rows, texts, no_tokens(0, {}), results, number)
    if not texts.num_rows:
        return block
    key = f"block-{number}"
    watch.begin(key, RowPlaces(block.slices).of(results.computed))
    with stage_times.during("tokenize"):
        block = replace(block, tokens=tokenize(texts))
    watch.end(key)
    return block


def _taken_from(rows: pa.RecordBatch, slices: Sequence[ShardSlice]) -> Iterator[ShardSlice]:
    """The slices with their part of `rows`, so that what was read is not held twice."""
    start = 0
    for item in slices:
        if computed_slices([item]):
            item = replace(item, rows=rows.slice(start, len(item.numbers)))
            start += len(item.numbers)
        yield item


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
