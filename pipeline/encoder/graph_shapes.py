"""Batches of fixed shapes, as CUDA graphs need them. Integers only: no torch.

A graph replays the same kernels on the same addresses, so the number of tokens, the capacity of
`cu_seqlens` and the largest length are fixed when it is captured. Rows of tokens that no sequence
covers would never be written and could leak older values, so dummy sequences cover the tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.packing import Batch, Int8Array, Int32Array

# Tokens are rounded up to a multiple of an eighth of the power of two below them: at most 6 % are
# wasted on average, and none in a batch that fills its budget.
_STEPS_PER_OCTAVE = 8
_MIN_TOKENS = 256
_MIN_LENGTH = 32
# Bounds of a batch's tokens on a GPU. The upper one keeps launches few and the activations of small
# models in the GPU's cache.
_MAX_BATCH_TOKENS = 16_384
_MIN_BATCH_TOKENS = 1024
# Share of the free memory for a batch's activations; graphs and libraries need the rest.
_MEMORY_SHARE = 0.5
# A shape has room for sequences that are on average this many times shorter than the longest; in a
# sorted batch they are longer.
_LENGTH_RATIO = 8


@dataclass(frozen=True, slots=True)
class GraphShape:
    """The sizes that are fixed in a graph."""

    tokens: int
    max_seqlen: int
    sequences: int  # capacity, dummies and unused entries included

    @property
    def name(self) -> str:
        """The shape in words, for messages and the log."""
        return f"{self.tokens} tokens in at most {self.sequences} sequences of {self.max_seqlen}"


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch filled up to a shape; the batch's own tokens and sequences come first."""

    ids: Int32Array  # [shape.tokens]
    cu_seqlens: Int32Array  # [shape.sequences + 1]; unused entries repeat the last offset
    max_seqlen: int  # of the shape
    type_ids: Int8Array | None  # [shape.tokens]


def shape_for(
    tokens: int, max_seqlen: int, sequences: int, limit: int | None = None
) -> GraphShape | None:
    """The shape that a batch fits into, None if it has too many sequences for any.

    Args:
        tokens: in the batch, ≥ 1.
        max_seqlen: its longest sequence.
        sequences: how many it has.
        limit: the most tokens of a sequence if the model has a position table; dummies keep to it.
    """
    capacity = max(_MIN_TOKENS, tokens)
    step = 2 ** ((capacity - 1).bit_length() - 1) // _STEPS_PER_OCTAVE
    capacity = -(-capacity // step) * step
    longest = max(_MIN_LENGTH, 2 ** (max_seqlen - 1).bit_length())
    longest = longest if limit is None else min(longest, limit)
    room = max(64, _LENGTH_RATIO * capacity // longest)
    dummies = -(-(capacity - tokens) // longest)
    if sequences + dummies > room:
        return None
    return GraphShape(capacity, longest, room)


def fill(batch: Batch, shape: GraphShape) -> Filled:
    """Append dummy sequences of token 0 to a batch until it has the shape's tokens.

    Raises:
        ValueError: the batch does not fit into the shape.
    """
    spare = shape.tokens - batch.tokens
    dummies = -(-spare // shape.max_seqlen)
    if spare < 0 or batch.max_seqlen > shape.max_seqlen or len(batch) + dummies > shape.sequences:
        raise ValueError(
            f"{batch.tokens} tokens in {len(batch)} sequences of up to {batch.max_seqlen} do not "
            f"fit into {shape.name}"
        )
    ids = np.zeros(shape.tokens, dtype=np.int32)
    ids[: batch.tokens] = batch.ids
    cu_seqlens = np.full(shape.sequences + 1, shape.tokens, dtype=np.int32)
    cu_seqlens[: len(batch) + 1] = batch.cu_seqlens
    # Full dummies first; the last one is cut off by the shape's end.
    ends = batch.tokens + shape.max_seqlen * np.arange(1, dummies + 1)
    cu_seqlens[len(batch) + 1 : len(batch) + 1 + dummies] = np.minimum(ends, shape.tokens)
    types = None
    if batch.type_ids is not None:
        types = np.zeros(shape.tokens, dtype=np.int8)
        types[: batch.tokens] = batch.type_ids
    return Filled(ids, cu_seqlens, shape.max_seqlen, types)


def gpu_tokens(config: EncoderConfig, free_bytes: int, item_bytes: int) -> int:
    """Tokens of a batch that a GPU's free memory holds, a power of two.

    Args:
        config: of the encoder.
        free_bytes: of the GPU, once the weights are loaded.
        item_bytes: of one activation, 2 or 4.
    """
    projected = (config.heads + 2 * config.kv_heads) * config.head_dim
    inner = config.intermediate_size * (3 if config.gated else 1)
    # Tensors of a layer that are alive at once, rotated and normed copies included; then float32
    # pooling.
    bytes_per_token = item_bytes * (6 * config.hidden_size + 2 * projected + inner)
    bytes_per_token += 8 * config.hidden_size
    fitting = int(_MEMORY_SHARE * free_bytes / bytes_per_token)
    return min(_MAX_BATCH_TOKENS, max(_MIN_BATCH_TOKENS, 1 << (max(1, fitting).bit_length() - 1)))
