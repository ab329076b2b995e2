"""The columns of vectors of tokens: the vectors, their scales, and where the tokens are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.outputs import Lists
from pipeline.packing import Int64Array
from pipeline.spec import JobSpec, OutputDtype
from pipeline.tasks.base import BoolArray, lists
from pipeline.tasks.dense_columns import DenseColumn, dense_columns
from pipeline.tokenize.tokens import Tokens
from pipeline.tokenize.vector_tokens import NO_VECTOR

STARTS, ENDS = "vector_starts", "vector_ends"
_NAME = "vectors"
FLOAT16_OVERFLOW = "a value of a vector is more than --output-dtype float16 can hold"


def multi_columns(dimensions: int, dtypes: Sequence[OutputDtype]) -> tuple[DenseColumn, ...]:
    """The columns of vectors of tokens: `vectors`, or one for each of several types.

    Raises:
        UsageError: a type cannot hold a vector of so many values.
    """
    return dense_columns((dimensions,), dtypes, name=_NAME)


def multi_names(dimensions: int, dtypes: Sequence[OutputDtype], *, offsets: bool) -> set[str]:
    """The names of all columns."""
    columns = multi_columns(dimensions, dtypes)
    names = {field.name for column in columns for field in column.fields()}
    return names | ({STARTS, ENDS} if offsets else set())


def bytes_of_token(dimensions: int, dtypes: Sequence[OutputDtype], *, offsets: bool) -> float:
    """Bytes of a token in a row."""
    columns = multi_columns(dimensions, dtypes)
    scales = sum(4 for column in columns if column.dtype == "int8")
    return sum(column.row_bytes for column in columns) + scales + (8 if offsets else 0)


class MultiColumns:
    """`vectors`, and `vector_starts` and `vector_ends` if asked for."""

    def __init__(self, spec: JobSpec, dimensions: int) -> None:
        self._width = dimensions
        self._columns = multi_columns(dimensions, spec.output_dtypes)
        self._float16 = "float16" in spec.output_dtypes
        self._offsets = spec.token_offsets

    def fields(self) -> list[pa.Field]:
        """The columns of the output."""
        found = [field for column in self._columns for field in column.fields()]
        fields = [pa.field(field.name, pa.list_(field.type)) for field in found]
        if self._offsets:
            fields += [pa.field(name, pa.list_(pa.int32())) for name in (STARTS, ENDS)]
        return fields

    def arrays(self, given: Lists, tokens: Tokens, failed: BoolArray) -> list[pa.Array]:
        """Their values.

        Args:
            given: the vectors of each sequence, [S].
            tokens: of R rows, of which each has at most one sequence.
            failed: [R].
        """
        row_of = tokens.row_of
        sound = ~failed[row_of]
        everyone, given = given, given.take(sound)
        counts = np.zeros(len(failed), dtype=np.int64)
        counts[row_of[sound]] = given.counts
        vectors = given.values.reshape(-1, self._width)
        everything = np.zeros(len(vectors), dtype=np.bool_)
        flat = [array for column in self._columns for array in column.arrays(vectors, everything)]
        if self._offsets:
            assert tokens.char_spans is not None
            places = _places(everyone, tokens.offsets)
            spans = tokens.char_spans[places[np.repeat(sound, everyone.counts)]]
            flat += [pa.array(spans[:, i], mask=spans[:, i] < 0) for i in (0, 1)]
        return [lists(counts, array, failed) for array in flat]

    def problems(self, given: Lists, row_of: Int64Array) -> dict[int, str]:
        """Row → why its vectors cannot be written."""
        found = {int(row): NO_VECTOR for row in row_of[given.counts == 0]}
        if self._float16:
            values = np.abs(given.values.reshape(-1, self._width))
            over = np.unique(given.owners[(values > np.finfo(np.float16).max).any(axis=1)])
            found |= {int(row): FLOAT16_OVERFLOW for row in row_of[over]}
        return found


def _places(given: Lists, offsets: Int64Array) -> Int64Array:
    """The index of the token of each vector among all."""
    return np.repeat(offsets[:-1], given.counts) + given.ids


def multi_flaws(table: pa.Table) -> Iterator[str]:
    """What contradicts itself in the columns of a part, in words."""
    names = [name for name in table.column_names if name.split("_")[0] == _NAME]
    names = [name for name in names if pa.types.is_list(table.schema.field(name).type)]
    if not names:
        return
    counts = table[names[0]].combine_chunks().value_lengths().fill_null(0)
    for name in (*names[1:], STARTS, ENDS):
        if name in table.column_names:
            others = table[name].combine_chunks().value_lengths().fill_null(0)
            if not counts.equals(others):
                yield f"{name} has not as many entries as {names[0]}"
    if STARTS in table.column_names:
        starts, ends = (
            table[name].combine_chunks().flatten().fill_null(0).to_numpy()
            for name in (STARTS, ENDS)
        )
        if len(starts) == len(ends) and ((starts > ends) | (starts < 0)).any():
            yield f"{STARTS} lie after {ENDS}, or below 0"
