"""The columns of sparse vectors: the terms of a text, their weights, and their tokens as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.encoder.architecture.sparse_head import MAX_TERMS
from pipeline.outputs import Lists
from pipeline.packing import Int64Array
from pipeline.spec import JobSpec, OutputDtype
from pipeline.tasks.base import BoolArray, lists

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INDICES, VALUES, TERMS = SPARSE_NAMES = ("sparse_indices", "sparse_values", "sparse_terms")
# Bytes of a token as text, with the offset that ends it.
_TERM_BYTES = 12


def sparse_dtype(dtypes: Sequence[OutputDtype]) -> OutputDtype:
    """The type of weights: float16 only where no column asks for more, never integers."""
    return "float16" if "float16" in dtypes and "float32" not in dtypes else "float32"


def sparse_row_bytes(vocabulary: int, dtype: OutputDtype, top_k: int | None, *, terms: bool) -> int:
    """The most bytes of a sparse vector in a row."""
    entry = 4 + (2 if dtype == "float16" else 4) + (_TERM_BYTES if terms else 0)
    return min(vocabulary, top_k or MAX_TERMS) * entry


class SparseColumns:
    """`sparse_indices`, `sparse_values` and, if asked for, `sparse_terms`."""

    def __init__(self, spec: JobSpec, tokenizer: Tokenizer) -> None:
        self._dtype = sparse_dtype(spec.output_dtypes)
        self._top_k = spec.sparse_top_k
        self._tokenizer = tokenizer if spec.sparse_terms else None

    def fields(self) -> list[pa.Field]:
        """The columns of the output."""
        value = pa.float16() if self._dtype == "float16" else pa.float32()
        fields = [pa.field(INDICES, pa.list_(pa.int32())), pa.field(VALUES, pa.list_(value))]
        if self._tokenizer is not None:
            fields.append(pa.field(TERMS, pa.list_(pa.string())))
        return fields

    def arrays(self, given: Lists, row_of: Int64Array, failed: BoolArray) -> list[pa.Array]:
        """Their values.

        Args:
            given: the terms of each sequence, [S].
            row_of: the row of each sequence, [S], ascending: at most one of a row.
            failed: [R].
        """
        given, rows = given.take(~failed[row_of]), row_of[~failed[row_of]]
        counts = np.zeros(len(failed), dtype=np.int64)
        counts[rows] = given.counts
        arrays = [
            lists(counts, pa.array(given.ids), failed),
            lists(counts, pa.array(given.values.astype(self._dtype)), failed),
        ]
        if self._tokenizer is not None:
            arrays.append(lists(counts, _as_text(given, self._tokenizer), failed))
        return arrays

    def problems(self, given: Lists, row_of: Int64Array) -> dict[int, str]:
        """Row → why its vector cannot be written."""
        found = {}
        if self._top_k is None:
            too_many = f"the text has more than {MAX_TERMS:,} terms: give --sparse-top-k"
            found = {int(row): too_many for row in row_of[given.counts > MAX_TERMS]}
        if self._dtype == "float16":
            over = np.unique(given.owners[np.abs(given.values) > np.finfo(np.float16).max])
            found |= {int(row): FLOAT16_OVERFLOW for row in row_of[over]}
        return found


FLOAT16_OVERFLOW = "a value of the vector is more than --output-dtype float16 can hold"


def _as_text(given: Lists, tokenizer: Tokenizer) -> pa.Array:
    """The token of each term; null for a term that the tokenizer does not have."""
    different, places = np.unique(given.ids, return_inverse=True)
    names = [tokenizer.id_to_token(number) for number in different.tolist()]
    return pa.array(names, pa.string()).take(pa.array(places))


def sparse_flaws(table: pa.Table) -> Iterator[str]:
    """What contradicts itself in the columns of a part, in words."""
    if INDICES not in table.column_names:
        return
    indices = table[INDICES].combine_chunks()
    counts = indices.value_lengths().fill_null(0).to_numpy()
    for name in (VALUES, TERMS):
        if name in table.column_names:
            others = table[name].combine_chunks().value_lengths().fill_null(0).to_numpy()
            if not np.array_equal(counts, others):
                yield f"{name} has not as many entries as {INDICES}"
    steps = np.diff(indices.flatten().to_numpy(), prepend=-1)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    steps[starts] = 1 + np.minimum(indices.flatten().to_numpy()[starts], 0)
    if (steps <= 0).any():
        yield f"{INDICES} are not ascending, or below 0"
