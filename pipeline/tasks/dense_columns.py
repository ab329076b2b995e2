"""The columns of dense vectors: one for each width and type, all from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.packing import Int8Array
from pipeline.spec import OutputDtype
from pipeline.tasks.base import BoolArray, Float32Array

_INT8_MAX = 127
_VALUE_BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}


@dataclass(frozen=True, slots=True)
class DenseColumn:
    """One column of vectors, and that of their scales for int8."""

    name: str
    first: int  # of its dimensions among the outputs of a sequence
    width: int
    dtype: OutputDtype

    @property
    def row_bytes(self) -> float:
        """Bytes of a vector."""
        return self.width * _VALUE_BYTES[self.dtype]

    def fields(self) -> list[pa.Field]:
        """The columns of the output."""
        value_type, width = _storage_type(self.dtype, self.width)
        fields = [pa.field(self.name, pa.list_(value_type, width))]
        if self.dtype == "int8":
            fields.append(pa.field(f"{self.name}_scale", pa.float32()))
        return fields

    def arrays(self, outputs: Float32Array, failed: BoolArray) -> list[pa.Array]:
        """Their values, given the outputs of each row [R, all widths]."""
        vectors = outputs[:, self.first : self.first + self.width]
        if self.dtype == "int8":
            values, scales = quantize_int8(vectors)
            return [_vectors(values, failed), pa.array(scales, mask=failed)]
        if self.dtype == "binary":
            return [_vectors(np.packbits(vectors > 0, axis=1), failed)]
        return [_vectors(vectors.astype(self.dtype, copy=False), failed)]


def dense_columns(
    dimensions: Sequence[int], dtypes: Sequence[OutputDtype], *, name: str = "embedding"
) -> tuple[DenseColumn, ...]:
    """The columns of vectors, `name` if there is one: names say what several differ in.

    Args:
        dimensions: widths; the outputs of a sequence hold the vectors in this order.
        dtypes: each vector is written in each of them.
        name: of the only column, and what the names of several begin with.

    Raises:
        UsageError: a type cannot hold a width.
    """
    return tuple(_columns(dimensions, dtypes, name))


def _columns(
    dimensions: Sequence[int], dtypes: Sequence[OutputDtype], name: str
) -> Iterator[DenseColumn]:
    first = 0
    for width in dimensions:
        for dtype in dtypes:
            _check_binary(dtype, width)
            suffix = f"_{width}" * (len(dimensions) > 1) + f"_{dtype}" * (len(dtypes) > 1)
            yield DenseColumn(f"{name}{suffix}", first, width, dtype)
        first += width


def quantize_int8(vectors: Float32Array) -> tuple[Int8Array, Float32Array]:
    """Symmetric int8 per row: value ≈ int8 × scale with scale = absmax / 127.

    The scale depends on the row alone, so that shards and nightly runs stay comparable.

    Args:
        vectors: [R, width] float32.

    Returns:
        int8 [R, width] and float32 scales [R]; an all-zero row has scale 0.
    """
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / _INT8_MAX).astype(np.float32)
    divisor = np.where(scales > 0, scales, 1)[:, None]
    values = np.rint(vectors / divisor).clip(-_INT8_MAX, _INT8_MAX)
    return values.astype(np.int8), scales


def _check_binary(dtype: OutputDtype, width: int) -> None:
    if dtype == "binary" and width % 8:
        raise UsageError(
            f"--output-dtype binary packs 8 dimensions per byte, and {width} is not a multiple "
            "of 8",
            hint="choose another type, or for dense vectors --dimensions as a multiple of 8",
        )


def _storage_type(dtype: OutputDtype, width: int) -> tuple[pa.DataType, int]:
    if dtype == "binary":
        return pa.uint8(), width // 8
    return {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype], width


def _vectors(values: npt.NDArray[np.generic], failed: BoolArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array(failed) if failed.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
