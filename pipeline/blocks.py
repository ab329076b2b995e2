"""Read and tokenize: shards → windows of tokenized rows, ahead of the device.

A window is what is sorted and packed together. It may span shards, and files, so that many
small files still make full batches; its slices say which rows belong to which shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import BeiJobsError, InputChanged, StorageError
from pipeline.input import reading
from pipeline.output.run import Run
from pipeline.prefetch import map_in_order
from pipeline.spec import Shard
from pipeline.store.directory import file_info
from pipeline.tasks import Task
from pipeline.tokenize.texts import Tokens

#: Rows read at once: small enough that a batch of long documents is no burden.
READ_ROWS = 1024
#: The first window is small so that the device starts at once; each next one is twice as large.
_FIRST_BLOCK_ROWS = 256
#: Large enough that sorting leaves almost equal lengths in a batch.
_BLOCK_ROWS = 16_384
#: Text and outputs a window may hold, whatever its rows: it bounds the memory of long documents
#: and of wide vectors.
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Consecutive rows of one shard within a window, or the reason why there are no more."""

    shard: Shard
    rows: pa.RecordBatch | None
    last: bool
    error: BeiJobsError | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Tokenized rows of one or more shards, in input order."""

    slices: tuple[ShardSlice, ...]
    rows: pa.RecordBatch
    tokens: Tokens


def read_blocks(
    run: Run, shards: Sequence[Shard], task: Task, width: int, *, threads: int = 1
) -> Iterator[Block]:
    """Tokenize the rows of `shards`, window by window, `threads` windows at once.

    `width` is that of the model's output: values a sequence, or a token.
    """
    return map_in_order(
        lambda slices: _block(slices, run, task), _groups(run, shards, task, width), threads
    )


def _groups(
    run: Run, shards: Sequence[Shard], task: Task, width: int
) -> Iterator[list[ShardSlice]]:
    """The slices of each block."""
    held: list[ShardSlice] = []
    rows, size, target = 0, 0, _FIRST_BLOCK_ROWS
    for piece in _slices(run, shards):
        held.append(piece)
        if piece.rows is not None:
            rows += piece.rows.num_rows
            size += _held_bytes(piece.rows, task, width)
        if rows >= target or size >= _BLOCK_BYTES:
            yield held
            held, rows, size = [], 0, 0
            target = min(2 * target, _BLOCK_ROWS)
    if held:
        yield held


def _held_bytes(rows: pa.RecordBatch, task: Task, width: int) -> int:
    """About what rows will hold in memory: their text, and their float32 outputs."""
    text: int = rows.nbytes
    # A token stands for about four bytes of text, so that its outputs weigh `width` times that.
    return text + (text * width if task.per_token else rows.num_rows * width * 4)


def _block(slices: list[ShardSlice], run: Run, task: Task) -> Block:
    batches = [piece.rows for piece in slices if piece.rows is not None]
    table = pa.Table.from_batches(batches, run.columns).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else _no_rows(run.columns)
    return Block(tuple(slices), rows, task.tokenize(rows))


def _slices(run: Run, shards: Sequence[Shard]) -> Iterator[ShardSlice]:
    """The rows of every shard in order; a shard that fails ends with its error, others go on."""
    for _, group in itertools.groupby(shards, key=lambda shard: shard.file.uri):
        left = list(group)
        while left:
            done = 0
            try:
                for piece in _read(run, left):
                    yield piece
                    done += piece.last
                break
            except BeiJobsError as error:
                yield ShardSlice(left[done], None, last=True, error=error)
                left = left[done + 1 :]


def _read(run: Run, shards: Sequence[Shard]) -> Iterator[ShardSlice]:
    """Stream consecutive shards of one file through one reader.

    A slice is handed out only when the next one came or the reader ended well, so that a shard
    is never complete before the reader had its last say on it.
    """
    left = [shard.rows for shard in shards]
    held: ShardSlice | None = None
    try:
        for index, batch in reading.read(
            shards[0].file, [shard.cut for shard in shards], run.columns, READ_ROWS
        ):
            if held is not None:
                _check_whole(held, shards[index])
                yield held
            left[index] -= batch.num_rows
            held = ShardSlice(shards[index], batch, last=left[index] == 0)
        for shard, missing in zip(shards, left, strict=True):
            if missing:
                raise _too_short(shard)
    except BeiJobsError:
        # What cannot be read is the next shard's: this one is whole, if it is what was planned.
        if held is not None and held.last and left[-1] and _unchanged(held.shard):
            yield held
        raise
    if held is not None:
        yield held


def _check_whole(held: ShardSlice, following: Shard) -> None:
    if not held.last and held.shard is not following:
        raise _too_short(held.shard)


def _too_short(shard: Shard) -> InputChanged:
    return InputChanged(
        f"{shard} holds fewer rows than when it was planned",
        hint="submit again: the file's new version is then planned",
    )


def _unchanged(shard: Shard) -> bool:
    try:
        return file_info(shard.file.uri).version == shard.file.version
    except StorageError:
        return False


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
