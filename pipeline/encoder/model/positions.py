"""Where tokens stand in their sequences: ranks, RoBERTa's count, rotary angles.

Shapes: T tokens, S sequences, H heads, D head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import Rope
from pipeline.encoder.model.packed_batch import PackedBatch


def ranks(batch: PackedBatch) -> Tensor:
    """Rank of every token in its sequence, [T] int64."""
    lengths = batch.cu_seqlens.diff()
    starts = torch.repeat_interleave(
        batch.cu_seqlens[:-1].long(), lengths, output_size=batch.ids.shape[0]
    )
    return torch.arange(batch.ids.shape[0], device=batch.ids.device) - starts


def skip_padding(batch: PackedBatch, padding: int) -> Tensor:
    """RoBERTa's positions: padding + 1, padding + 2, …; a padding token in the text takes
    `padding` itself and does not count."""
    real = batch.ids != padding
    counted = real.cumsum(0)  # over the batch
    before = functional.pad(counted, (1, 0))[batch.cu_seqlens[:-1].long()]  # [S]
    before = torch.repeat_interleave(
        before, batch.cu_seqlens.diff(), output_size=batch.ids.shape[0]
    )
    return (counted - before) * real + padding


def rotations(rope: Rope, length: int) -> Tensor:
    """Cosines then sines of positions 0 … length − 1, [length, D] float32 (D / 2 of each).

    Formula: https://arxiv.org/abs/2104.09864; Llama 3.1's scaling as published with its weights.
    """
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim
    frequency = 1.0 / rope.theta**exponents
    if rope.original_length is None:
        frequency = frequency / rope.factor
    else:
        turns = rope.original_length * frequency / (2 * math.pi)
        low, high = rope.low_freq_factor, rope.high_freq_factor
        # 1: a short wavelength, kept; 0: a long one, divided by the factor.
        kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        frequency = kept * frequency + (1.0 - kept) * frequency / rope.factor
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the halves of every head against each other; x [T, H, D], rotation [T, 1, D]."""
    cos, sin = rotation.chunk(2, dim=-1)  # float32, and so are the products
    first, second = x.chunk(2, dim=-1)
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    left, right = turned.chunk(2, dim=-1)
    torch.addcmul(first * cos, second, sin, value=-1, out=left)
    torch.addcmul(second * cos, first, sin, out=right)
    return turned
