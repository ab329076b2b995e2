"""Find the rows of new and changed files in parts that are there already, by their row keys.

Their texts are read and hashed here once; what was found is stored per shard for whoever computes
it (`pipeline.output.copies`). Nothing is read where no file is new or changed, or no part is there.

Memory does not depend on the inputs: `_ROWS_AT_ONCE` new rows are matched at a time, against keys
of earlier rows that stream by. A match is made by half of a key; the other half is compared when
the row is copied.

`match_rows` stores what is found; `bei-jobs plan` only finds, and looks at the texts on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import BeiJobsError, StorageError
from pipeline.input.reading import read
from pipeline.output.copies import Copies, Source, read_keys, write_copies
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.prefetch import map_in_order
from pipeline.row_keys import KEY_BYTES, row_keys
from pipeline.shards import Shard, part_format
from pipeline.store.directory import Directory

# New rows that are matched at once, and earlier rows that are held for it: 24 bytes each.
_ROWS_AT_ONCE = 10_000_000
_EARLIER_AT_ONCE = 1_000_000
_READ_ROWS = 16_384
# Parts whose keys are read, and lists that are written, at once: each is a few small requests.
_THREADS = 16

UInt64Array = npt.NDArray[np.uint64]
Int32Array = npt.NDArray[np.int32]

# Called with rows that were just read, and the number of the first among those of its `Found`.
OnRows = Callable[[int, pa.RecordBatch], None]


@dataclass(frozen=True, slots=True)
class Found:
    """Where the R rows of some consecutive shards may be copied from."""

    shards: Sequence[Shard]
    keys: UInt64Array  # [R] half of each row's key, 0 for null
    source: Int32Array  # [R] index into the sources; -1: the row is in none
    row: Int32Array  # [R] number in that source

    def of_shards(self) -> Iterator[tuple[Shard, slice]]:
        """Each shard, and where its rows are."""
        first = 0
        for shard in self.shards:
            yield shard, slice(first, first + shard.rows)
            first += shard.rows


def match_rows(
    output: Output,
    plan: Plan,
    columns: pa.Schema,
    texts: Sequence[str],
    say: Callable[[str], None],
    *,
    others: Sequence[Output] = (),
) -> int:
    """Match the rows of the shards without a part, and store where each may be copied from.

    Args:
        output: the output of the plan.
        plan: what one run must have.
        columns: what is read: the columns of texts, and those that select rows.
        texts: the columns that the task reads, in its order.
        say: called with what is done, which may take minutes, and what was found.
        others: outputs of the same space whose parts are searched too.

    Returns:
        The number of rows that were found.

    Raises:
        StorageError: the output cannot be read or written.
    """
    committed = output.committed()
    missing = plan.missing(committed)
    sources = parts_to_search(plan, committed, others)
    if not (missing and sources):
        return 0
    matched = 0
    rows = sum(shard.rows for shard in plan.shards(missing))
    say(f"looking for {rows:,} rows of new and changed files in {len(sources):,} earlier parts")
    shards = plan.shards(missing)
    for found in find_rows(output, shards, columns, texts, sources, skip_unreadable=True):
        _write(output, found, sources)
        matched += int((found.source >= 0).sum())
    say(f"{matched:,} of them are there and are copied")
    return matched


def parts_to_search(plan: Plan, committed: Iterable[str], others: Sequence[Output]) -> list[Source]:
    """The committed parts of the output of a plan, and those of others."""
    own = [("", part) for part in committed if part_format(part) == plan.output_format]
    for other in others:
        kind, found = other.output_format(), other.committed()
        own += [(other.uri, part) for part in found if part_format(part) == kind]
    return own


def find_rows(
    output: Output,
    shards: Iterator[Shard],
    columns: pa.Schema,
    texts: Sequence[str],
    sources: Sequence[Source],
    *,
    skip_unreadable: bool = False,
    on_rows: OnRows = lambda first, rows: None,
) -> Iterator[Found]:
    """Read the rows of shards once, and find them in parts. Nothing is stored.

    Args:
        output: of the shards.
        shards: in input order.
        columns: what is read: the columns of texts, and those that select rows.
        texts: the columns that the task reads, in its order.
        sources: the parts to search.
        skip_unreadable: the rows of a file that cannot be read are in no part, instead of an error.
        on_rows: called with all rows, as they are read.

    Raises:
        InputError, InputChanged, StorageError: a file cannot be read.
    """
    for group in _groups(shards):
        keys = _new_keys(group, columns, texts, on_rows, skip_unreadable=skip_unreadable)
        yield _find(output, group, keys, sources)


def _groups(shards: Iterator[Shard]) -> Iterator[list[Shard]]:
    """Consecutive shards with at most `_ROWS_AT_ONCE` rows, or one."""
    group, rows = list[Shard](), 0
    for shard in shards:
        if group and rows + shard.rows > _ROWS_AT_ONCE:
            yield group
            group, rows = [], 0
        group.append(shard)
        rows += shard.rows
    if group:
        yield group


def _find(
    output: Output, shards: Sequence[Shard], keys: UInt64Array, sources: Sequence[Source]
) -> Found:
    source = np.full(len(keys), -1, dtype=np.int32)
    row = np.zeros(len(keys), dtype=np.int32)
    if sources:
        import polars as pl  # takes a moment, and most runs match nothing

        new = pl.LazyFrame({"key": keys, "at": np.arange(len(keys), dtype=np.uint32)})
        new = new.filter(pl.col("key") != 0)  # or each null would match each earlier one
        for earlier in _earlier_keys(output, sources):
            of_part = pl.LazyFrame(dict(zip(("key", "source", "row"), earlier, strict=True)))
            # Each key once: or thousands of equal rows would match thousands of times each.
            of_part = of_part.join(new, on="key", how="semi").unique("key")
            found = new.join(of_part, on="key").collect(engine="streaming")
            at = found["at"].to_numpy()
            source[at], row[at] = found["source"].to_numpy(), found["row"].to_numpy()
    return Found(shards, keys, source, row)


def _new_keys(
    shards: Sequence[Shard],
    columns: pa.Schema,
    texts: Sequence[str],
    on_rows: OnRows,
    *,
    skip_unreadable: bool,
) -> UInt64Array:
    """The first half of each row's key, shard by shard; 0 where a file cannot be read."""
    keys: UInt64Array = np.zeros(sum(shard.rows for shard in shards), dtype=np.uint64)
    start = 0
    for _, group in groupby(shards, key=lambda shard: shard.file.uri):
        of_file = list(group)
        starts = [start + first for first in np.cumsum([0, *(shard.rows for shard in of_file)])]
        start = starts[-1]
        try:
            cuts = [shard.cut for shard in of_file]
            for index, batch in read(of_file[0].file, cuts, columns, _READ_ROWS):
                on_rows(starts[index], batch)
                stop = min(starts[index] + batch.num_rows, starts[index + 1])
                halves = _halves(row_keys(batch, texts))
                keys[starts[index] : stop] = halves[: stop - starts[index]]
                starts[index] = stop
        except BeiJobsError:
            if not skip_unreadable:
                raise
            # Computing the shard will say what is wrong.
    return keys


def _earlier_keys(
    output: Output, sources: Sequence[Source]
) -> Iterator[tuple[UInt64Array, Int32Array, Int32Array]]:
    """Half keys of earlier rows, the index of their source, and their rows in it."""

    def keys_of(index: int) -> tuple[int, UInt64Array]:
        uri, part = sources[index]
        try:
            keys = read_keys(Directory(uri or output.uri), part)
        except StorageError:  # such as one that was just swept: its rows are computed
            keys = None
        return index, _halves(pa.chunked_array([], pa.binary(KEY_BYTES)) if keys is None else keys)

    held = list[tuple[UInt64Array, Int32Array, Int32Array]]()
    for index, keys in map_in_order(keys_of, iter(range(len(sources))), _THREADS):
        number = np.full(len(keys), index, dtype=np.int32)
        held.append((keys, number, np.arange(len(keys), dtype=np.int32)))
        if sum(len(keys) for keys, _, _ in held) >= _EARLIER_AT_ONCE:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(
    held: Iterable[tuple[UInt64Array, Int32Array, Int32Array]],
) -> tuple[UInt64Array, Int32Array, Int32Array]:
    keys, numbers, rows = zip(*held, strict=True)
    return np.concatenate(keys), np.concatenate(numbers), np.concatenate(rows)


def _halves(keys: pa.Array | pa.ChunkedArray) -> UInt64Array:
    """The first eight bytes of each key, as a number; 0 for null."""
    chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
    halves = [np.zeros(0, dtype=np.uint64)]
    for chunk in chunks:
        words = np.frombuffer(chunk.fill_null(bytes(KEY_BYTES)).buffers()[1], dtype=np.uint64)
        halves.append(words[2 * chunk.offset : 2 * (chunk.offset + len(chunk)) : 2])
    return np.concatenate(halves)


def _write(output: Output, found: Found, sources: Sequence[Source]) -> None:
    """Store the copies of each shard that has some."""

    def write(item: tuple[Shard, slice]) -> None:
        shard, at = item
        used = np.unique(found.source[at])
        used = used[used >= 0]
        if used.size:
            # Index into the sources of this shard; -1 stays.
            local = np.searchsorted(used, found.source[at])
            local = np.where(found.source[at] < 0, -1, local)
            names = tuple(sources[number] for number in used)
            write_copies(output, shard.id, Copies(names, local.astype(np.int32), found.row[at]))

    for _ in map_in_order(write, found.of_shards(), _THREADS):
        pass
