"""Rows of a block that need no computing: copies of a part's rows, and duplicates.

Equal row keys mean equal results (`pipeline.row_keys`). So of the rows of a block only those are
computed whose key is in no earlier part (`pipeline.output.copies`) and comes for the first time:
in the block, or in the last blocks whose results still fit in DUPLICATES_BYTES.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StorageError
from pipeline.output.copies import Copies, Source, read_copies, read_results
from pipeline.output.output import Output
from pipeline.output.part_format import format_of
from pipeline.output.run import Run
from pipeline.packing import Int8Array, Int64Array
from pipeline.part_columns import CUT_FIELD, ROW_COLUMNS
from pipeline.row_keys import KEY_FIELD, key_values, row_keys
from pipeline.shards import Shard
from pipeline.store.uris import is_local
from pipeline.tasks import Task

logger = logging.getLogger(__name__)

# Keys and results of earlier blocks that are held for duplicates, per device.
DUPLICATES_BYTES = 256 << 20
# What a key costs in a dictionary.
_KEY_BYTES = 190
_BLOCK = 1 << 32  # more than the rows of a block

# Results of parts that are held; local Arrow parts are mapped into memory instead.
_PARTS_BYTES = 256 << 20
_MAX_PARTS = 256


class Origin(IntEnum):
    """Where the result of a row comes from."""

    COMPUTED = 0
    REUSED = 1  # from an earlier part
    DUPLICATE = 2  # from a row with the same key that was just computed


@dataclass(frozen=True, slots=True)
class RowResults:
    """Where the result of each row of a block comes from; R rows, U of them computed."""

    keys: pa.FixedSizeBinaryArray  # [R]
    computed: Int64Array  # [U] rows of the block, ascending
    # [R] index into the results of the computed rows, then `copied`, then `earlier`
    source: Int64Array
    origin: Int8Array  # [R] values of Origin
    copied: tuple[pa.Table, ...] = ()  # result rows of earlier parts
    earlier: Int64Array | None = None  # [E, 2] number of an earlier block, row of its results

    @classmethod
    def all_computed(cls, keys: pa.FixedSizeBinaryArray) -> RowResults:
        """Every row is computed."""
        everything = np.arange(len(keys))
        return cls(keys, everything, everything, np.zeros(len(keys), dtype=np.int8))

    @property
    def plain(self) -> bool:
        """Whether every row is computed."""
        return len(self.computed) == len(self.keys)

    def sharing(self) -> Int64Array:
        """[U] how many rows take the result of each computed row."""
        count = len(self.computed)
        return np.bincount(self.source[self.source < count], minlength=count)


def rows_held(row_bytes: int) -> int:
    """About how many results of `row_bytes` bytes are held for duplicates."""
    return DUPLICATES_BYTES // (row_bytes + _KEY_BYTES)


def result_schema(task: Task) -> pa.Schema:
    """The columns of a row that depend on its texts alone, but for the key, as they are held."""
    return pa.schema([*task.fields(), *ROW_COLUMNS, CUT_FIELD])


class Duplicates:
    """Results of the last blocks of a job, by row key. One thread looks up, another one stores.

    What a block refers to is held until the block itself is stored.
    """

    def __init__(self, limit: int = DUPLICATES_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._first = 0  # number here of the first block of this attempt
        # Key → block · _BLOCK + row of its results: a number, as the collector looks at each tuple.
        self._places: dict[bytes, int] = {}
        self._keys: OrderedDict[int, list[bytes]] = OrderedDict()  # of the blocks that are held
        self._results: dict[int, pa.Table] = {}
        self._evicted: dict[int, list[int]] = {}  # block → blocks that no later one refers to

    def begin(self) -> None:
        """Another attempt begins, whose blocks count from 0; forget those without results."""
        with self._lock:
            for block in [block for block in self._keys if block not in self]:
                self._forget(block)
            self._evicted.clear()
            self._results = {block: self._results[block] for block in self._keys}
            self._first = max(self._keys, default=-1) + 1

    def find(self, keys: Sequence[bytes]) -> Int64Array:
        """[K, 2] where the results of keys are: block, or -1, and row of its `results`."""
        places = np.fromiter(map(self._places.get, keys, repeat(-1)), np.int64, len(keys))
        return np.stack(np.divmod(places, _BLOCK), axis=1)

    def expect(self, block: int, keys: list[bytes]) -> None:
        """The results of a block will come: row i has the key keys[i], b"" for none."""
        number = self._first + block
        rows = range(number * _BLOCK, number * _BLOCK + len(keys))
        with self._lock:
            self._places.update(zip(keys, rows, strict=True))
            self._keys[number] = keys
            self._evicted[number] = gone = []
            while len(self._keys) > 1 and self._bytes() > self._limit:
                gone.append(next(iter(self._keys)))
                self._forget(gone[-1])

    def store(self, block: int, results: pa.Table) -> None:
        """The results of a block, in the order of its keys."""
        number = self._first + block
        with self._lock:
            self._results[number] = results
            for evicted in self._evicted.pop(number, ()):
                self._results.pop(evicted, None)

    def __contains__(self, number: int) -> bool:
        """Whether the results of a block are held."""
        return number in self._results

    def results(self, number: int) -> pa.Table:
        """The results of a block that `find` named."""
        return self._results[number]

    def _forget(self, number: int) -> None:
        for key in self._keys.pop(number):
            self._places.pop(key, None)

    def _bytes(self) -> int:
        keys = sum(len(keys) for keys in self._keys.values())
        held = sum(self._results[one].nbytes for one in self._keys if one in self)
        return int(held + keys * _KEY_BYTES)


class EarlierParts:
    """Rows of earlier parts, for the shards of one run on one engine."""

    def __init__(self, output: Output, run: Run, task: Task, precision: str) -> None:
        self._output = output
        self._run = run
        self._schema = result_schema(task)
        self._precision = precision
        self._shard = ""
        self._copies: Copies | None = None  # of that shard
        self._parts: OrderedDict[Source, pa.Table | None] = OrderedDict()

    def copies(
        self, shard: Shard, first: int, keys: pa.FixedSizeBinaryArray
    ) -> Iterator[tuple[Int64Array, pa.Table]]:
        """Rows that can be copied: their positions among the keys, and their results.

        Args:
            shard: of the rows.
            first: number in the shard of the first row.
            keys: of consecutive rows.
        """
        if self._run.matched and shard.id != self._shard:
            self._shard = shard.id
            self._copies = read_copies(self._output, self._run, shard)
        if not self._run.matched or self._copies is None:
            return
        numbers = self._copies.source[first : first + len(keys)]
        for number in np.unique(numbers[numbers >= 0]):
            at = np.flatnonzero(numbers == number)
            results = self._results(self._copies.sources[number])
            if results is not None:
                yield self._taken(results, at, self._copies.row[first + at].astype(np.int64), keys)

    def _taken(
        self, results: pa.Table, at: Int64Array, rows: Int64Array, keys: pa.FixedSizeBinaryArray
    ) -> tuple[Int64Array, pa.Table]:
        """The rows of a part whose keys are the wanted ones, and that are no errors."""
        there = rows < len(results)
        at, taken = at[there], results.take(pa.array(rows[there]))
        wanted = keys.take(pa.array(at))
        good = pc.and_(pc.equal(taken[KEY_FIELD.name], wanted), taken["error"].is_null())
        good = pc.fill_null(good, False).combine_chunks()
        if not pc.all(good).as_py():
            at, taken = at[good.to_numpy(zero_copy_only=False)], taken.filter(good)
        return at, taken.select(self._schema.names)

    def _results(self, source: Source) -> pa.Table | None:
        """The results of a part; None where they cannot be used, and its rows are computed."""
        if source in self._parts:
            self._parts.move_to_end(source)
            return self._parts[source]
        try:
            table = read_results(self._run, source, self._schema, self._precision)
        except StorageError as error:
            logger.warning("%s is not copied, its rows are computed: %s", source[1], error)
            table = None
        self._parts[source] = table
        while len(self._parts) > _MAX_PARTS or (len(self._parts) > 1 and self._too_large()):
            self._parts.popitem(last=False)
        return table

    def _too_large(self) -> bool:
        size = 0
        for (output, part), table in self._parts.items():
            mapped = format_of(part).mapped and is_local(output or self._output.uri)
            size += 0 if table is None or mapped else table.nbytes
        return size > _PARTS_BYTES


class KnownRows:
    """Says for the rows of each block, in order, where their results come from.

    Args:
        columns: the columns of texts that the task reads.
        parts: rows of earlier parts.
        duplicates: results of earlier blocks.
    """

    def __init__(self, columns: Sequence[str], parts: EarlierParts, duplicates: Duplicates) -> None:
        self._columns = columns
        self._parts = parts
        self._duplicates = duplicates
        duplicates.begin()

    def resolve(
        self, block: int, slices: Sequence[tuple[Shard, int, pa.RecordBatch]]
    ) -> RowResults:
        """Where the rows of a block get their results.

        Args:
            block: its number; blocks come in order.
            slices: shard, number of the first row, and the rows.
        """
        keys = [row_keys(rows, self._columns) for _, _, rows in slices]
        tables: list[pa.Table] = []
        places: list[Int64Array] = []
        start = 0
        for (shard, first, _), of_slice in zip(slices, keys, strict=True):
            for at, table in self._parts.copies(shard, first, of_slice):
                tables.append(table)
                places.append(start + at)
            start += len(of_slice)
        all_keys = pa.concat_arrays([*keys, pa.array([], KEY_FIELD.type)])
        copied = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
        return self._resolve(block, all_keys, copied, tuple(tables))

    def _resolve(
        self,
        block: int,
        keys: pa.FixedSizeBinaryArray,
        copied: Int64Array,
        tables: tuple[pa.Table, ...],
    ) -> RowResults:
        values = key_values(keys)
        origin = np.zeros(len(values), dtype=np.int8)
        origin[copied] = Origin.REUSED
        rows = np.flatnonzero((origin == Origin.COMPUTED) & np.asarray(keys.is_valid()))
        wanted = [values[row] for row in rows.tolist()]
        first = np.arange(len(values))  # row of the block that has the same key
        first[rows] = rows[_first_of(wanted)]
        again = first != np.arange(len(values))
        earlier = np.full((len(values), 2), -1)
        earlier[rows] = self._duplicates.find(wanted)
        later = earlier[:, 0] >= 0
        origin[later | again] = Origin.DUPLICATE
        computed = np.flatnonzero(origin == Origin.COMPUTED)
        source = np.zeros(len(values), dtype=np.int64)
        source[computed] = np.arange(len(computed))
        source = source[first]
        source[copied] = len(computed) + np.arange(len(copied))
        source[later] = len(computed) + len(copied) + np.arange(np.count_nonzero(later))
        self._duplicates.expect(block, [values[row] for row in computed.tolist()])
        return RowResults(keys, computed, source, origin, tables, earlier[later])


def _first_of(keys: Sequence[bytes]) -> Int64Array:
    """[K] where the same key stands for the first time."""
    places = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    return np.fromiter(map(places.__getitem__, keys), np.int64, len(keys))
