"""Embed: one text per row → one vector per row, in the type of --output-dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.packing import Int8Array
from pipeline.request import Request
from pipeline.spec import JobSpec, OutputDtype
from pipeline.tasks.base import BoolArray, Float32Array, Task
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.texts import TextTokenizer, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_INT8_MAX = 127
# Estimated bytes of an output row besides its vector: id, counts and kept columns.
_OTHER_BYTES = 64


class Embed(Task):
    """Text → `embedding fixed_size_list<T>[width]`."""

    name = "embed"
    head = "embedding"
    models = "an embedding model: it has no classifier"
    options = frozenset(
        {"text_column", "prompt", "prompt_name", "dimensions", "output_dtype", "normalize"}
    )
    output_columns = frozenset({"embedding", "embedding_scale"})
    chunkings = ("chunk", "late-chunk", "pool")
    bei_route = "/v1/embeddings"

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        self._spec = spec
        self._width = spec.dimensions or card.dimensions
        _check_binary(spec.output_dtype, self._width)
        self._tokenizer = TextTokenizer(tokenizer, spec.max_length, spec.truncate, ids)
        self.uses_ids = self._tokenizer.uses_ids

    @classmethod
    def check_model(cls, request: Request, card: ModelCard) -> None:
        if request.dimensions is not None and request.dimensions > card.dimensions:
            raise UsageError(
                f"--dimensions {request.dimensions} is more than the {card.dimensions} of "
                f"{request.model}",
                hint=f"give at most {card.dimensions}",
            )
        _check_binary(request.output_dtype, request.dimensions or card.dimensions)

    @classmethod
    def prompt(cls, request: Request, card: ModelCard) -> str:
        prompt = _prompt(request, card)
        left = cls.truncate(request, card) == "left"
        if prompt and left and not card.modules.include_prompt:
            raise UsageError(
                f"--truncate left would cut the prompt off long texts, and the pooling of "
                f"{request.model} would then skip that many tokens of the text",
                hint="use --truncate right or error (--long-texts cut-end or error), or "
                "--prompt '' for no prompt",
            )
        return prompt

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        modules = card.modules
        found: dict[str, Choice[object]] = {}
        if request.normalize is None:
            unit = card.gives_unit_length(request.dimensions)
            reason = f"the model gives {'unit vectors' if unit else 'vectors of any length'}"
            found["normalize"] = Choice("yes" if unit else "no", reason)
        if request.prompt is None and request.prompt_name is None and modules.default_prompt_name:
            name = modules.default_prompt_name
            reason = f"the model's default prompt, named {name!r}"
            found["prompt"] = Choice(cls.prompt(request, card), reason)
        return found

    @classmethod
    def row_bytes(cls, request: Request, card: ModelCard) -> int:
        value_bytes = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}
        width = request.dimensions or card.dimensions
        return int(width * value_bytes[request.output_dtype]) + _OTHER_BYTES

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        column = rows.column(self._spec.text_column)
        return self._tokenizer.encode_column(column, self._spec.prompt)

    def fields(self) -> list[pa.Field]:
        value_type, width = _storage_type(self._spec.output_dtype, self._width)
        fields = [pa.field("embedding", pa.list_(value_type, width))]
        if self._spec.output_dtype == "int8":
            fields.append(pa.field("embedding_scale", pa.float32()))
        return fields

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        vectors = outputs
        if failed.any() or len(outputs) != tokens.rows:
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
            hint="choose --dimensions as a multiple of 8",
        )


def _prompt(request: Request, card: ModelCard) -> str:
    """The text of the prompt: as given, by name, or the model's default."""
    if request.prompt is not None:
        return request.prompt
    prompts = card.modules.prompts
    name = request.prompt_name or card.modules.default_prompt_name
    if name is None:
        return ""
    if name not in prompts:
        default = "" if request.prompt_name else ", which its files name as default_prompt_name"
        raise UsageError(
            f"{request.model} has no prompt named {name!r}{default}",
            hint=f"choose one of its prompts ({', '.join(sorted(prompts)) or 'none'}), or give the "
            "text with --prompt",
        )
    return prompts[name]


def _storage_type(dtype: OutputDtype, width: int) -> tuple[pa.DataType, int]:
    if dtype == "binary":
        return pa.uint8(), width // 8
    return {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype], width


def _vectors(values: npt.NDArray[np.generic], failed: BoolArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array(failed) if failed.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
