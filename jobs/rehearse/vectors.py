"""The vectors of an output's rows, as a search compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.packing import Int64Array
from pipeline.tasks.sparse_columns import INDICES, VALUES

Float32Array = npt.NDArray[np.float32]
#: How two vectors are compared: `hamming` counts the bits in which they differ.
Rule = Literal["cosine", "dot", "hamming", "sparse dot"]
ROW = "sample_row"  # the id column of a sample


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """The column of an output that holds the vectors of a side."""

    name: str
    rule: Rule
    width: int  # dimensions; of sparse vectors 0
    bytes: float  # of a dense vector; of sparse ones, of an entry


@dataclass(frozen=True, slots=True)
class Sparse:
    """Rows of terms and weights, [N] rows and [E] entries."""

    offsets: Int64Array  # [N + 1]
    terms: npt.NDArray[np.int32]  # [E]
    weights: Float32Array  # [E]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of N rows. A row of a text in chunks has several, one after the other."""

    dense: Float32Array | None  # [V, width]; of sparse vectors None
    sparse: Sparse | None
    starts: Int64Array | None  # [N] the first vector of each row; None: each row has one

    @property
    def rows(self) -> int:
        """N."""
        if self.starts is not None:
            return len(self.starts)
        return len(self.dense) if self.dense is not None else len(self._sparse.offsets) - 1

    @property
    def _sparse(self) -> Sparse:
        assert self.sparse is not None
        return self.sparse


def vector_column(fields: Sequence[pa.Field], *, dot: bool, side: str) -> VectorColumn:
    """The one column of vectors among those that a task writes.

    Args:
        fields: of the task.
        dot: whether the model was trained for inner products of vectors of any length.
        side: for messages.

    Raises:
        UsageError: there is none, or several.
    """
    found = [field for field in fields if pa.types.is_fixed_size_list(field.type)]
    sparse = [field for field in fields if field.name == INDICES]
    names = [field.name for field in (*found, *sparse)]
    if not names:
        raise UsageError(
            f"{side}: the task writes no dense or sparse vectors, which are compared, but "
            f"{', '.join(field.name for field in fields)}",
            hint="rehearse a model that embeds texts, with dense or sparse vectors",
        )
    if len(names) > 1:
        raise UsageError(
            f"{side}: a text gets several vectors ({', '.join(names)}), and one is compared",
            hint="choose one, such as vectors=dense, dimensions=128 or output-dtype=float32",
        )
    if sparse:
        value = next(field for field in fields if field.name == VALUES).type.value_type
        return VectorColumn(INDICES, "sparse dot", 0, 4 + value.bit_width / 8)
    kind, width = found[0].type.value_type, found[0].type.list_size
    size = width * kind.bit_width / 8
    if pa.types.is_uint8(kind):
        return VectorColumn(found[0].name, "hamming", width * 8, size)
    # One scale comes with a vector of int8.
    return VectorColumn(
        found[0].name, "dot" if dot else "cosine", width, size + 4 * pa.types.is_int8(kind)
    )


def read_vectors(table: pa.Table, column: VectorColumn, rows: Int64Array) -> Vectors:
    """The vectors of some rows of an output.

    Args:
        table: its rows, in the order of the sample.
        column: which vectors.
        rows: numbers of the sample, ascending, each with a vector.
    """
    wanted = np.isin(table[ROW].to_numpy(), rows)
    table = table.filter(pa.array(wanted)).combine_chunks()
    numbers = table[ROW].to_numpy()
    starts = np.searchsorted(numbers, rows)
    several = starts if len(numbers) > len(rows) else None
    if column.rule == "sparse dot":
        return Vectors(None, _sparse(table), several)
    values = table[column.name].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False)
    stored = flat.reshape(len(values), -1)
    if column.rule == "hamming":
        return Vectors(_signs(stored), None, several)
    dense = stored.astype(np.float32)
    if (scale := f"{column.name}_scale") in table.column_names:
        dense *= table[scale].to_numpy()[:, None]
    return Vectors(dense if column.rule == "dot" else _unit(dense), None, several)


def rows_with_vectors(table: pa.Table, column: VectorColumn) -> Int64Array:
    """Numbers of the sample whose rows have a vector, ascending."""
    good = table.filter(pc.is_valid(table[column.name]))
    return np.unique(good[ROW].to_numpy())


def _sparse(table: pa.Table) -> Sparse:
    terms, weights = table[INDICES].combine_chunks(), table[VALUES].combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(terms.value_lengths().to_numpy())]).astype(np.int64)
    flat = weights.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return Sparse(offsets, terms.flatten().to_numpy(), flat)


def _signs(packed: npt.NDArray[np.uint8]) -> Float32Array:
    """Bits as 1 and -1: their inner product is the width less twice the Hamming distance."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _unit(vectors: Float32Array) -> Float32Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
