"""The two forms of output rows: as they are held, one per input row, and as a part has them.

Everything that makes each row exactly once (keys, copies, duplicates, pieces, the quarantine)
counts input rows. So a row is held as one, whatever it gave: of a text in chunks, each column of
results is a list. Only the part has a row for each chunk, which repeats the row's id, kept columns
and key, and is numbered from 0; a row that failed is one row without a chunk. `bei.chunks` in the
metadata of a part says that it has this form, and how many rows it holds.

Rows that are held also have, in CUT_FIELD, how many tokens of their texts were cut off; of a part,
only the sum is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.part_columns import CHUNK_FIELDS, CUT_FIELD, HELD_FIELDS

Int64Array = npt.NDArray[np.int64]

# Metadata of a part or piece of a version that did not count what was cut off.
NOTHING_KNOWN = {b"bei.truncated": b"1"}
_CHUNKS_KEY, _CUT_KEY, _TRUNCATED_KEY = b"bei.chunks", b"bei.cut", b"bei.truncated"


@dataclass(frozen=True, slots=True)
class Lost:
    """What a part holds besides the counts of its columns."""

    chunks: int  # rows of the part; 0: one for each row of the input
    cut: int | None  # tokens that were cut off; None: not known


@dataclass(frozen=True, slots=True)
class RowForm:
    """How the rows of a run are stored: columns that pass through, results, and maybe a key."""

    passing: int  # columns before the results
    keyed: bool
    chunked: bool  # whether a row may be several in a part

    def part_schema(self, held: pa.Schema) -> pa.Schema:
        """The columns of a part, given those of the rows that are held."""
        fields = list(held)
        del fields[self.cut_index(len(fields))]
        if self.chunked:
            first, last = self.passing + len(HELD_FIELDS), self._counts(len(fields))
            results = [field.with_type(field.type.value_type) for field in fields[first:last]]
            fields = [*fields[: self.passing], *CHUNK_FIELDS, *results, *fields[last:]]
        return pa.schema(fields)

    def to_part(self, held: pa.Table) -> tuple[pa.Table, Lost]:
        """The rows of a part."""
        at = self.cut_index(held.num_columns)
        truncated = held.column(at - 2).fill_null(False)
        cut = _sum(held.column(at).filter(truncated))
        table = held.remove_column(at)
        if self.chunked:
            table = self._unfolded(table, self.part_schema(held.schema))
            return table, Lost(table.num_rows, cut)
        return table, Lost(0, cut)

    def to_held(self, part: pa.Table, values: Mapping[bytes, bytes]) -> pa.Table:
        """The rows as they are held, given those of a part and its metadata.

        What was cut of a row is its share of what was cut of the part.
        """
        return self.with_cut(self._folded(part) if self.chunked else part, values)

    def with_cut(self, table: pa.Table, values: Mapping[bytes, bytes]) -> pa.Table:
        """Rows that are held, from those without CUT_FIELD."""
        at = self.cut_index(table.num_columns + 1)
        truncated = table.column(at - 2).fill_null(False).to_numpy()
        return table.add_column(at, CUT_FIELD, _shares(truncated, values))

    def cut_index(self, columns: int) -> int:
        """The place of CUT_FIELD among the columns that are held."""
        return columns - 1 - self.keyed

    def _counts(self, columns: int) -> int:
        """The place of `n_tokens` in a part, and without CUT_FIELD."""
        return columns - 3 - self.keyed

    def _unfolded(self, held: pa.Table, schema: pa.Schema) -> pa.Table:
        import pyarrow.compute as pc  # what only reads totals does without

        lists, last = self.passing, self._counts(held.num_columns)
        held = held.combine_chunks()
        counts = pc.list_value_length(held.column(lists)).fill_null(0).to_numpy()
        sound = counts > 0
        rows = np.repeat(np.arange(len(counts)), np.maximum(counts, 1))
        firsts = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))])[:-1]
        number = np.arange(len(rows)) - firsts[rows]
        # Of each row of the part, which one of all chunks it is; those with an error are none.
        chunk = np.where(sound[rows], np.cumsum(sound[rows]) - 1, 0)
        chunks = None if sound.all() else pa.array(chunk, mask=~sound[rows])
        start, end, tokens, *results = (
            _flat(held.column(index), chunks) for index in range(lists, last)
        )
        columns = [_repeated(held.column(index), rows) for index in range(lists)]
        columns += [pa.array(number, pa.int32(), mask=~sound[rows]), start, end, *results]
        own_tokens = held.column(last).take(pa.array(rows))
        columns.append(pc.coalesce(tokens, own_tokens.cast(pa.int32())))
        columns += [held.column(i).take(pa.array(rows)) for i in range(last + 1, held.num_columns)]
        return pa.Table.from_arrays(columns, schema=schema)

    def _folded(self, part: pa.Table) -> pa.Table:
        first, last = self.passing, self._counts(part.num_columns)
        starts = row_starts(part.column(first))
        offsets = np.append(starts, part.num_rows)
        failed = part.column(first).take(pa.array(starts)).is_null().combine_chunks()
        n_tokens = part.column(last)
        results = [*range(first + 1, first + len(CHUNK_FIELDS)), last]
        results += range(first + len(CHUNK_FIELDS), last)
        fields = [*HELD_FIELDS, *(part.field(i) for i in results[len(HELD_FIELDS) :])]
        lists = [_lists(part.column(index), offsets, failed) for index in results]
        sums = np.add.reduceat(n_tokens.to_numpy(), starts) if len(starts) else np.zeros(0)
        columns = [_repeated(part.column(index), starts) for index in range(first)]
        columns += [*lists, pa.array(sums, pa.int32())]
        rest = part.columns[last + 1 :]
        columns += [column.take(pa.array(starts)) for column in rest]
        pairs = zip(fields, lists, strict=True)
        held = [field.with_type(column.type) for field, column in pairs]
        before, after = part.schema, list(part.schema)[last:]
        schema = pa.schema([*list(before)[:first], *held, *after])
        return pa.Table.from_arrays(columns, schema=schema)


def row_starts(chunk: pa.ChunkedArray) -> Int64Array:
    """The rows of a part that begin an input row, given its column `chunk`."""
    return np.flatnonzero(chunk.fill_null(0).to_numpy() == 0)


def has_chunks(values: Mapping[bytes, bytes] | None) -> bool:
    """Whether a part has a row for each chunk, given its metadata."""
    return _CHUNKS_KEY in (values or {})


def first_chunks(part: pa.Table) -> pa.Table:
    """The first row of each input row."""
    starts = row_starts(part["chunk"])
    return pa.Table.from_arrays([_repeated(c, starts) for c in part.columns], schema=part.schema)


def chunk_problems(part: pa.Table, repeated: Sequence[str]) -> Iterator[str]:
    """What is wrong with the chunks of a part that is otherwise sound.

    Args:
        part: its rows.
        repeated: the columns that are equal in all chunks of a row, besides the number of tokens.
    """
    chunk, start, end = (part[field.name].fill_null(0).to_numpy() for field in CHUNK_FIELDS)
    begins = np.zeros(part.num_rows, dtype=np.bool_)
    begins[row_starts(part["chunk"])] = True
    follows = np.flatnonzero(~begins)
    if part.num_rows and not begins[0]:
        yield "it begins within a row"
        return
    if (chunk[follows] != chunk[follows - 1] + 1).any():
        yield "the chunks of a row are not numbered one after another"
    if (start < 0).any() or (end < start).any() or (start[follows] < start[follows - 1]).any():
        yield "the chunks of a row are not in the order of its text"
    for name in repeated:
        column = part[name]
        if name != "n_tokens" and not _same(column, follows - 1, follows):
            yield f"{name} differs between the chunks of a row"


def _same(column: pa.ChunkedArray, rows: Int64Array, others: Int64Array) -> bool:
    try:
        return bool(column.take(pa.array(rows)).equals(column.take(pa.array(others))))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return True  # a type that pyarrow can take no rows of


def _shares(truncated: npt.NDArray[np.bool_], values: Mapping[bytes, bytes]) -> pa.Array:
    """What was cut of each row: as much of each, so that all of them make up the part's sum."""
    count = int(values.get(_TRUNCATED_KEY, b"0"))
    cut = np.zeros(len(truncated), dtype=np.int32)
    if count and _CUT_KEY not in values:
        return pa.array(cut, mask=truncated)
    if count:
        total, rank = int(values[_CUT_KEY]), np.cumsum(truncated)
        bounds = rank * total // count
        cut = np.diff(bounds, prepend=0).astype(np.int32)
    return pa.array(cut)


def _sum(cut: pa.ChunkedArray) -> int | None:
    return None if cut.null_count else int(cut.to_numpy().sum())


def _flat(column: pa.ChunkedArray, chunks: pa.Array | None) -> pa.Array:
    """The values of all lists in a row; null at the places that `chunks` has none for."""
    arrays = [chunk.flatten() for chunk in column.chunks]
    kind = column.type.value_type
    values = pa.concat_arrays(arrays) if arrays else pa.array([], kind)
    return values if chunks is None else values.take(chunks)


def _lists(column: pa.ChunkedArray, offsets: Int64Array, failed: pa.BooleanArray) -> pa.Array:
    values = column.combine_chunks()
    mask = failed if failed.true_count else None
    bounds = pa.array(offsets, pa.int32())
    return pa.ListArray.from_arrays(bounds, values, mask=mask)


def _repeated(column: pa.ChunkedArray, rows: Int64Array) -> pa.ChunkedArray:
    """The values of some rows, also of types that pyarrow cannot take rows of."""
    try:
        return column.take(pa.array(rows))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.chunked_array(_slices(column, rows.tolist()), column.type)


def _slices(column: pa.ChunkedArray, rows: Sequence[int]) -> list[pa.Array]:
    return [chunk for row in rows for chunk in column.slice(row, 1).chunks]
