"""Embed: one text a row, one vector a row, stored in the type that was asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.errors import UsageError
from pipeline.packing import Int8Array
from pipeline.spec import JobSpec, OutputDtype
from pipeline.tasks.base import BoolArray, Float32Array
from pipeline.tokenize.texts import TextTokenizer, Tokens, text_values

_INT8_MAX = 127


class Embed:
    """Text → `embedding fixed_size_list<T>[width]`."""

    per_token = False

    def __init__(self, spec: JobSpec, tokenizer: Tokenizer, output_size: int) -> None:
        if spec.output_dtype == "binary" and output_size % 8:
            raise UsageError(
                f"--output-dtype binary packs 8 dimensions a byte; {output_size} is no multiple",
                hint="choose --dimensions as a multiple of 8",
            )
        self._spec = spec
        self._width = output_size
        self._tokenizer = TextTokenizer(tokenizer, spec.max_length, spec.truncate)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self._spec.text_column,)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        texts, invalid = text_values(rows.column(self._spec.text_column))
        tokens = self._tokenizer.encode(texts, self._spec.prompt)
        tokens.errors.update(invalid)
        return tokens

    def fields(self) -> list[pa.Field]:
        value, width = _stored(self._spec.output_dtype, self._width)
        fields = [pa.field("embedding", pa.list_(value, width))]
        if self._spec.output_dtype == "int8":
            fields.append(pa.field("embedding_scale", pa.float32()))
        return fields

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        vectors = np.zeros((tokens.rows, self._width), dtype=np.float32)
        vectors[tokens.row_of] = outputs
        vectors[failed] = 0
        dtype = self._spec.output_dtype
        if dtype == "int8":
            values, scales = quantize_int8(vectors)
            return [_vectors(values, failed), pa.array(scales, mask=failed)]
        if dtype == "binary":
            return [_vectors(np.packbits(vectors > 0, axis=1), failed)]
        return [_vectors(vectors.astype(dtype, copy=False), failed)]


def quantize_int8(vectors: Float32Array) -> tuple[Int8Array, Float32Array]:
    """Symmetric int8 per row: value ≈ int8 × scale with scale = absmax / 127.

    Nothing is calibrated on neighbours, so shards and nights stay comparable.

    Args:
        vectors: [R, width] float32.

    Returns:
        int8 [R, width] and float32 scales [R]; an all-zero row has scale 0.
    """
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / _INT8_MAX).astype(np.float32)
    divisor = np.where(scales > 0, scales, 1)[:, None]
    values = np.rint(vectors / divisor).clip(-_INT8_MAX, _INT8_MAX)
    return values.astype(np.int8), scales


def _stored(dtype: OutputDtype, width: int) -> tuple[pa.DataType, int]:
    if dtype == "binary":
        return pa.uint8(), width // 8
    return {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype], width


def _vectors(values: npt.NDArray[np.generic], failed: BoolArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array(failed) if failed.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
