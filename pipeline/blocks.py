"""Read and tokenize: shards → blocks of tokenized rows, ahead of the device.

The rows of a block are sorted and packed together. A block may hold rows of several shards and
files, so that many small files still make full batches. Its slices say which rows belong to which
shard, and which of them are not computed: because an earlier attempt saved them, because they are
refused, or because this attempt leaves them out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import BeiJobsError, InputChanged, StorageError
from pipeline.input import reading
from pipeline.input.reading import SUBMIT_AGAIN
from pipeline.known_rows import KnownRows, RowResults
from pipeline.output.open_shards import Places, Rows
from pipeline.output.run import Run
from pipeline.packing import Int8Array
from pipeline.prefetch import map_in_order
from pipeline.spec import Shard
from pipeline.stage_times import stage_times
from pipeline.store.directory import file_info
from pipeline.tasks import Task
from pipeline.tokenize.texts import Tokens, no_tokens

# Rows read at once: few enough that even long documents need little memory.
READ_ROWS = 1024
# The first block is small so that the device starts at once; each next one is twice as large.
_FIRST_BLOCK_ROWS = 256
# Large enough that sorted batches have sequences of almost equal length.
_BLOCK_ROWS = 16_384
# Text and outputs of a block, whatever its number of rows: bounds the memory for long documents
# and for wide vectors.
_BLOCK_BYTES = 32 * 2**20


class Fate(Enum):
    """What happens to a row of a shard."""

    COMPUTED = 0
    SAVED = 1  # an earlier attempt computed it
    REFUSED = 2  # it ended or broke its process
    HELD = 3  # not in this attempt


# Shard id → the value of each row's Fate, [rows]; a shard that is missing is computed.
Fates = Mapping[str, Int8Array]


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
class ShardSlice:
    """Consecutive rows of one shard within a block, or the error that ended the shard."""

    shard: Shard
    rows: pa.RecordBatch | None
    last: bool
    error: BeiJobsError | None = None
    first: int = 0  # number in the shard of the first row
    fate: Fate = Fate.COMPUTED
    in_file: Rows | None = None  # [rows] their numbers in the file; None: each follows the other

    @property
    def numbers(self) -> Rows:
        """The numbers of the rows in their shard."""
        count = 0 if self.rows is None else self.rows.num_rows
        return np.arange(self.first, self.first + count)

    def row_in_file(self, row: int) -> int:
        """The number in the file of a row of the slice."""
        if self.in_file is None:
            return self.shard.first_row + self.first + row
        return int(self.in_file[row])


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one or more shards, in input order; R of them, of which U are tokenized."""

    slices: tuple[ShardSlice, ...]
    rows: pa.RecordBatch  # [R] of the slices that are computed
    texts: pa.RecordBatch  # [U] what the task reads of the rows that are tokenized
    tokens: Tokens  # of these
    results: RowResults
    number: int = 0


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


def computed_slices(slices: Sequence[ShardSlice]) -> list[ShardSlice]:
    """The slices whose rows are in `Block.rows`, in their order there."""
    return [s for s in slices if s.rows is not None and s.fate is Fate.COMPUTED]


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
    """
    told = watch or NoWatch()
    groups = _resolved(enumerate(_groups(run, shards, task, width, fates or {})), known)
    groups = stage_times.each("read", groups)
    return map_in_order(lambda item: _block(*item, run, task, told), groups, threads)


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
    for shard_slice in _by_fate(_slices(run, shards), fates):
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


def _by_fate(slices: Iterator[ShardSlice], fates: Fates) -> Iterator[ShardSlice]:
    """Cut slices where the fate of their rows changes."""
    for item in slices:
        if item.rows is None or item.shard.id not in fates:
            yield item
            continue
        values = fates[item.shard.id][item.first : item.first + item.rows.num_rows]
        starts = [*np.flatnonzero(np.diff(values, prepend=values[0] - 1)), len(values)]
        for start, stop in itertools.pairwise(starts):
            yield replace(
                item,
                rows=item.rows.slice(start, stop - start),
                last=item.last and stop == len(values),
                first=item.first + int(start),
                fate=Fate(values[start]),
                in_file=None if item.in_file is None else item.in_file[start:stop],
            )


def _block(
    number: int,
    slices: list[ShardSlice],
    results: RowResults,
    run: Run,
    task: Task,
    watch: Watch,
) -> Block:
    batches = [item.rows for item in computed_slices(slices)]
    table = pa.Table.from_batches(batches, run.columns).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else _no_rows(run.columns)
    texts = rows
    if not results.plain:
        columns = rows.select(dict.fromkeys(task.columns_read(run.spec)))
        texts = columns.take(pa.array(results.computed))
    block = Block(tuple(slices), rows, texts, no_tokens(0, {}), results, number)
    if not texts.num_rows:
        return block
    key = f"block-{number}"
    watch.begin(key, RowPlaces(slices).of(results.computed))
    with stage_times.during("tokenize"):
        block = replace(block, tokens=task.tokenize(texts))
    watch.end(key)
    return block


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
        for index, in_file, batch in reading.read_numbered(
            shards[0].file, [shard.cut for shard in shards], run.columns, READ_ROWS
        ):
            if pending is not None:
                _check_complete(pending, shards[index])
                yield pending
            shard, left = shards[index], unread_rows[index]
            unread_rows[index] -= batch.num_rows
            pending = ShardSlice(
                shard,
                batch,
                last=unread_rows[index] == 0,
                first=shard.rows - left,
                in_file=in_file,
            )
        for shard, missing in zip(shards, unread_rows, strict=True):
            if missing:
                raise _too_short(shard)
    except BeiJobsError:
        # The error is the next shard's: the pending one is complete, if its file is unchanged.
        if pending is not None and pending.last and unread_rows[-1] and unchanged(pending.shard):
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


def unchanged(shard: Shard) -> bool:
    """Whether the input of a shard is there, and still the version that was planned."""
    try:
        return file_info(shard.file.uri).version == shard.file.version
    except StorageError:
        return False


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
