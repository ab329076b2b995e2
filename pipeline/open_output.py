"""The output of a shard whose last row is still to come: rows in any order, saved or not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline.blocks import Block
from pipeline.known_rows import Origin
from pipeline.output.open_shards import OPEN, ROW_FIELD, Piece
from pipeline.output.quarantine import failed_row
from pipeline.output.row_ranges import Mask, Rows, ranges_of
from pipeline.packing import Int8Array
from pipeline.part_rows import OutputRows
from pipeline.shards import Shard
from pipeline.slices import ShardSlice, computed_slices

# Shard id → its pieces, with their rows.
Saved = Mapping[str, Sequence[tuple[Piece, pa.Table]]]
# A table with the numbers of its rows in the shard.
Numbered = tuple[Rows, pa.Table]


class OpenOutput:
    """The rows of one shard that are there so far.

    Args:
        shard: the shard.
        saved: pieces of earlier attempts, with their rows.
    """

    def __init__(self, shard: Shard, saved: Sequence[tuple[Piece, pa.Table]] = ()) -> None:
        self.shard = shard
        # What goes when the part is there: of a repair, the earlier part goes with its run.
        self.pieces = [piece.name for piece, _ in saved if piece.name.startswith(OPEN)]
        self._started = time.monotonic()
        self._earlier_seconds = sum(piece.seconds for piece, _ in saved)
        self._there: Mask = np.zeros(shard.rows, dtype=np.bool_)
        self._origin: Int8Array = np.zeros(shard.rows, dtype=np.int8)
        self._tables: list[Numbered] = []
        self._unsaved: list[Numbered] = []
        self._failed: list[Numbered] = []
        self._saved_errors: dict[int, str] = {}
        for piece, table in saved:
            self._take_saved(piece, table)
        self.resumed = int(self._there.sum())

    @property
    def seconds(self) -> float:
        """Seconds since the shard was begun here, and of its pieces."""
        return time.monotonic() - self._started + self._earlier_seconds

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self._there.all())

    def add(self, item: ShardSlice, output: OutputRows) -> None:
        """Add the new output rows of a slice; those that failed are quarantined as well."""
        table, count = output.table, len(output.new)
        rows = np.flatnonzero(output.new & ~self._there[item.first : item.first + count])
        for first, count in ranges_of(rows):
            numbers = np.arange(item.first + first, item.first + first + count)
            self._tables.append((numbers, table.slice(first, count)))
            self._unsaved.append(self._tables[-1])
        self._there[item.first + rows] = True
        self._origin[item.first + rows] = output.origin[rows]
        failed = rows[output.failed[rows]]
        errors = {int(row): table["error"][int(row)].as_py() for row in failed}
        self._add_failed(item, errors)

    def add_saved(self, item: ShardSlice) -> None:
        """Take note of input rows whose output an earlier attempt saved."""
        numbers = set(item.numbers.tolist())
        errors = {row: error for row, error in self._saved_errors.items() if row in numbers}
        self._add_failed(item, {row - item.first: error for row, error in errors.items()})

    def table(self) -> pa.Table:
        """All output rows in input order; they are released here."""
        tables, self._tables, self._unsaved = self._tables, [], []
        table = _in_order(tables)
        assert table.num_rows == self.shard.rows  # a part holds every row once
        return table

    def count(self, origin: Origin, table: pa.Table) -> int:
        """How many rows of the output table have a result of that origin."""
        good = table["error"].is_null().to_numpy()
        return int((good & (self._origin == origin)).sum())

    def unsaved_origins(self) -> dict[Origin, Rows]:
        """The rows that no piece holds yet and that were copied, by origin."""
        numbers = np.sort(np.concatenate([rows for rows, _ in self._unsaved]))
        copied = (Origin.REUSED, Origin.DUPLICATE)
        return {origin: numbers[self._origin[numbers] == origin] for origin in copied}

    def failed_rows(self) -> pa.Table:
        """The input rows that failed, with `bei_row` (row in the file) and `bei_error`."""
        return _in_order(self._failed)

    def unsaved(self) -> pa.Table | None:
        """The rows that no piece holds yet, with ROW_FIELD; None if there are none."""
        if not self._unsaved:
            return None
        numbers = np.sort(np.concatenate([rows for rows, _ in self._unsaved]))
        return _in_order(self._unsaved).append_column(ROW_FIELD, pa.array(numbers))

    def saved_as(self, piece: Piece) -> None:
        """What was unsaved is in `piece` now."""
        self.pieces.append(piece.name)
        self._unsaved = []

    def _take_saved(self, piece: Piece, table: pa.Table) -> None:
        rows = piece.rows
        new = ~self._there[rows]
        self._origin[piece.reused] = Origin.REUSED
        self._origin[piece.duplicates] = Origin.DUPLICATE
        table = table.remove_column(table.num_columns - 1)
        for first, count in ranges_of(np.flatnonzero(new)):
            self._tables.append((rows[first : first + count], table.slice(first, count)))
        self._there[rows] = True
        errors = zip(rows.tolist(), table["error"].to_pylist(), strict=True)
        self._saved_errors |= {row: error for row, error in errors if error is not None}

    def _add_failed(self, item: ShardSlice, errors: dict[int, str]) -> None:
        for row, error in errors.items():
            assert item.rows is not None
            table = failed_row(item.rows, row, int(item.rows_in_file[row]), error)
            self._failed.append((np.array([item.first + row]), table))


class UnsafeRows:
    """Which rows of which blocks are computed, but neither in a part nor in a piece."""

    def __init__(self) -> None:
        self._left: dict[int, dict[str, int]] = {}  # block → shard → rows that are not safe
        self._added: dict[str, dict[int, int]] = {}  # shard → block → rows since it was last safe

    def expect(self, block: Block) -> None:
        """Count the rows of a block."""
        if block.number not in self._left:
            rows = self._left[block.number] = {}
            for item in computed_slices(block.slices):
                rows[item.shard.id] = rows.get(item.shard.id, 0) + len(item.numbers)

    def added(self, block: Block, shard: str, rows: int) -> None:
        """Rows of a shard were computed."""
        blocks = self._added.setdefault(shard, {})
        blocks[block.number] = blocks.get(block.number, 0) + rows

    def safe(self, shard: str) -> list[int]:
        """All computed rows of a shard are safe; returns the blocks whose rows now all are."""
        over = []
        for number, rows in self._added.pop(shard, {}).items():
            left = self._left[number]
            left[shard] -= rows
            if not any(left.values()):
                over.append(number)
                del self._left[number]
        return over


def _in_order(tables: Sequence[Numbered]) -> pa.Table:
    """One table of all rows, by their numbers."""
    table = pa.concat_tables([table for _, table in tables])
    numbers = np.concatenate([rows for rows, _ in tables])
    if (np.diff(numbers) > 0).all():
        return table
    # By slices, because pyarrow cannot take rows of every type that may be kept.
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(order, prepend=order[0] - 2) != 1)
    counts = np.diff(np.append(starts, order.size))
    slices = [
        table.slice(int(order[start]), int(count))
        for start, count in zip(starts, counts, strict=True)
    ]
    return pa.concat_tables(slices).combine_chunks()
