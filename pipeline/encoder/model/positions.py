"""Positions of tokens in their sequences: ranks, RoBERTa's count, rotary angles.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    L  positions of a table
    N  heads; D  head size; A  angles of a head, D / 2
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import Rope
from pipeline.encoder.model.packed_batch import PackedBatch


def ranks(batch: PackedBatch) -> Tensor:
    """Rank of every token in its sequence, from 0, [T] int64."""
    lengths_S = batch.cu_seqlens.diff()
    starts_T = torch.repeat_interleave(
        batch.cu_seqlens[:-1].long(), lengths_S, output_size=batch.ids.shape[0]
    )
    return torch.arange(batch.ids.shape[0], device=batch.ids.device) - starts_T


def skip_padding(batch: PackedBatch, padding: int) -> Tensor:
    """RoBERTa's positions, [T] int64: padding + 1, padding + 2, … in every sequence. A padding
    token in the text gets position `padding` and does not count.
    """
    real_T = batch.ids != padding
    counted_T = real_T.cumsum(0)  # over the batch
    before_S = functional.pad(counted_T, (1, 0))[batch.cu_seqlens[:-1].long()]
    before_T = torch.repeat_interleave(
        before_S, batch.cu_seqlens.diff(), output_size=batch.ids.shape[0]
    )
    return (counted_T - before_T) * real_T + padding


def rotations(rope: Rope, length: int) -> Tensor:
    """Cosines, then sines, of positions 0 … length − 1, [L, D] float32 (A of each).

    Formula: https://arxiv.org/abs/2104.09864; Llama 3.1's scaling as published with its weights.
    """
    exponents_A = torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim
    frequency_A = 1.0 / rope.theta**exponents_A
    if rope.original_length is None:
        frequency_A = frequency_A / rope.factor
    else:
        turns_A = rope.original_length * frequency_A / (2 * math.pi)
        low, high = rope.low_freq_factor, rope.high_freq_factor
        # 1: a short wavelength, kept; 0: a long one, divided by the factor.
        kept_A = ((turns_A - low) / (high - low)).clamp(0.0, 1.0)
        frequency_A = kept_A * frequency_A + (1.0 - kept_A) * frequency_A / rope.factor
    angles_LA = torch.arange(length, dtype=torch.float32)[:, None] * frequency_A
    return torch.cat((angles_LA.cos(), angles_LA.sin()), dim=1)


def rotate(x_TND: Tensor, rotation_T1D: Tensor) -> Tensor:
    """Rotate the two halves of every head against each other, [T, N, D] in the dtype of the input.

    Args:
        x_TND: queries or keys.
        rotation_T1D: cosines, then sines, as `rotations` gives them; float32, and so are the
            products.
    """
    cos_T1A, sin_T1A = rotation_T1D.chunk(2, dim=-1)
    first_TNA, second_TNA = x_TND.chunk(2, dim=-1)
    rotated_TND = torch.empty(x_TND.shape, dtype=x_TND.dtype, device=x_TND.device)
    out_first_TNA, out_second_TNA = rotated_TND.chunk(2, dim=-1)
    torch.addcmul(first_TNA * cos_T1A, second_TNA, sin_T1A, value=-1, out=out_first_TNA)
    torch.addcmul(second_TNA * cos_T1A, first_TNA, sin_T1A, out=out_second_TNA)
    return rotated_TND
