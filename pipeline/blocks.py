"""Read and tokenize: shards → blocks of tokenized rows, ahead of the device.

The rows of a block are sorted and packed together. A block may hold rows of several shards and
files, so that many small files still make full batches. Its slices say which rows belong to which
shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import BeiJobsError, InputChanged, StorageError
from pipeline.input import reading
from pipeline.input.reading import SUBMIT_AGAIN
from pipeline.output.run import Run
from pipeline.prefetch import map_in_order
from pipeline.spec import Shard
from pipeline.store.directory import file_info
from pipeline.tasks import Task
from pipeline.tokenize.texts import Tokens

# Rows read at once: few enough that even long documents need little memory.
READ_ROWS = 1024
# The first block is small so that the device starts at once; each next one is twice as large.
_FIRST_BLOCK_ROWS = 256
# Large enough that sorted batches have sequences of almost equal length.
_BLOCK_ROWS = 16_384
# Text and outputs of a block, whatever its number of rows: bounds the memory for long documents
# and for wide vectors.
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Consecutive rows of one shard within a block, or the error that ended the shard."""

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
    """Tokenize the rows of `shards`, block by block, `threads` blocks at once.

    `width` is the number of output values per sequence, or per token.
    """
    return map_in_order(
        lambda slices: _block(slices, run, task), _groups(run, shards, task, width), threads
    )


def _groups(
    run: Run, shards: Sequence[Shard], task: Task, width: int
) -> Iterator[list[ShardSlice]]:
    """The slices of each block."""
    slices: list[ShardSlice] = []
    rows, size, target_rows = 0, 0, _FIRST_BLOCK_ROWS
    for shard_slice in _slices(run, shards):
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
    text: int = rows.nbytes
    # A token stands for about four bytes of text and has `width` outputs of four bytes.
    return text + (text * width if task.per_token else rows.num_rows * width * 4)


def _block(slices: list[ShardSlice], run: Run, task: Task) -> Block:
    batches = [item.rows for item in slices if item.rows is not None]
    table = pa.Table.from_batches(batches, run.columns).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else _no_rows(run.columns)
    return Block(tuple(slices), rows, task.tokenize(rows))


def _slices(run: Run, shards: Sequence[Shard]) -> Iterator[ShardSlice]:
    """The rows of every shard in order; a failed shard ends with its error, the others continue."""
    for _, group in itertools.groupby(shards, key=lambda shard: shard.file.uri):
        unread = list(group)
        while unread:
            done = 0
            try:
                for shard_slice in _read(run, unread):
                    yield shard_slice
                    done += shard_slice.last
                break
            except BeiJobsError as error:
                yield ShardSlice(unread[done], None, last=True, error=error)
                unread = unread[done + 1 :]


def _read(run: Run, shards: Sequence[Shard]) -> Iterator[ShardSlice]:
    """Stream consecutive shards of one file through one reader.

    A slice is yielded only when the next one was read or the reader ended without an error, so
    that a shard is never complete before the reader has checked it.
    """
    unread_rows = [shard.rows for shard in shards]
    pending: ShardSlice | None = None
    try:
        for index, batch in reading.read(
            shards[0].file, [shard.cut for shard in shards], run.columns, READ_ROWS
        ):
            if pending is not None:
                _check_complete(pending, shards[index])
                yield pending
            unread_rows[index] -= batch.num_rows
            pending = ShardSlice(shards[index], batch, last=unread_rows[index] == 0)
        for shard, missing in zip(shards, unread_rows, strict=True):
            if missing:
                raise _too_short(shard)
    except BeiJobsError:
        # The error is the next shard's: the pending one is complete, if its file is unchanged.
        if pending is not None and pending.last and unread_rows[-1] and _unchanged(pending.shard):
            yield pending
        raise
    if pending is not None:
        yield pending


def _check_complete(pending: ShardSlice, next_shard: Shard) -> None:
    if not pending.last and pending.shard is not next_shard:
        raise _too_short(pending.shard)


def _too_short(shard: Shard) -> InputChanged:
    return InputChanged(
        f"{shard} has fewer rows than when it was planned",
        hint=SUBMIT_AGAIN,
    )


def _unchanged(shard: Shard) -> bool:
    try:
        return file_info(shard.file.uri).version == shard.file.version
    except StorageError:
        return False


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
