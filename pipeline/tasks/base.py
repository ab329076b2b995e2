"""What a task is: rows → sequences before the model, model outputs → columns after it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.packing import Int64Array
from pipeline.tokenize.texts import Tokens

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NON_FINITE = "the model's output is not finite, in higher precision too"


class Task(Protocol):
    """One of the things that can be done to a row. R rows, S sequences, T tokens a window."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the input that the task reads."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether the model gives one output a token ([T, width]) or a sequence ([S, width])."""
        ...

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        """Turn rows into token sequences, and say which rows have none and why."""
        ...

    def fields(self) -> list[pa.Field]:
        """The result columns, in order."""
        ...

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        """Turn outputs, in the window's order, into the result columns, R values each.

        `failed` [R] marks the rows whose result is null in every column.
        """
        ...


def lists(counts: Int64Array, values: pa.Array, failed: BoolArray) -> pa.ListArray:
    """A list a row from flat values in row order; null where the row failed.

    Args:
        counts: values of each row, [R]; 0 where it failed.
        values: [sum of counts].
        failed: [R].
    """
    offsets = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    mask = pa.array(failed) if failed.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)
