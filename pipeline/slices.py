"""Shards → slices: their rows as they are read, cut where what happens to them changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import pyarrow as pa

from pipeline.errors import BeiJobsError, InputChanged, StorageError
from pipeline.input import reading
from pipeline.input.planned_file import SUBMIT_AGAIN
from pipeline.output.row_ranges import Rows
from pipeline.output.run import Run
from pipeline.packing import Int8Array
from pipeline.shards import Shard
from pipeline.store.directory import told_version

# Rows read at once: few enough that even long documents need little memory.
READ_ROWS = 1024


class Fate(Enum):
    """What happens to a row of a shard."""

    COMPUTED = 0
    SAVED = 1  # an earlier attempt computed it
    REFUSED = 2  # it ended or broke its process
    HELD = 3  # not in this attempt


# Shard id → the value of each row's Fate, [rows]; a shard that is missing is computed.
Fates = Mapping[str, Int8Array]


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

    @property
    def rows_in_file(self) -> Rows:
        """The numbers of the rows in their file."""
        return self.shard.first_row + self.numbers if self.in_file is None else self.in_file


def computed_slices(slices: Sequence[ShardSlice]) -> list[ShardSlice]:
    """The slices whose rows are in `Block.rows`, in their order there."""
    return [s for s in slices if s.rows is not None and s.fate is Fate.COMPUTED]


def read_slices(run: Run, shards: Sequence[Shard], fates: Fates) -> Iterator[ShardSlice]:
    """The rows of every shard in order, cut where their fate changes.

    A failed shard ends with its error, the others continue.

    Args:
        run: of the shards.
        shards: in input order.
        fates: of the rows that are not computed.
    """
    return _by_fate(_slices(run, shards), fates)


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
    """Whether the input of a shard is there, and still the version that was planned.

    A file that has a version only by its content counts as unchanged: its rows come from a copy,
    which was of the planned version.
    """
    try:
        version = told_version(shard.file.uri, shard.file.size)
    except StorageError:
        return False
    return version in (None, shard.file.stored_version)
