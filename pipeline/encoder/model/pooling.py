"""Pooling: the hidden states of each sequence to one row, in float32.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    E  hidden size
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.checkpoint.modules import PoolingMode
from pipeline.encoder.model.packed_batch import PackedBatch

# read: the encoder has given one row for each sequence already, see `Reads`.
Pooled: TypeAlias = PoolingMode | Literal["read"]
# hidden [T, E] or [S, E], batch, mode, prompt tokens, whether of unit length → [S, E] float32
Pool: TypeAlias = Callable[[Tensor, PackedBatch, Pooled, int, bool], Tensor]


def pooled(
    hidden: Tensor, batch: PackedBatch, mode: Pooled, prompt_tokens: int, unit: bool
) -> Tensor:
    """One row per sequence, [S, E] float32; NaN for a sequence without tokens.

    Args:
        hidden: [T, E], or [S, E] if `mode` is read; of any float dtype.
        batch: where sequences start and end.
        mode: how tokens become one row.
        prompt_tokens: leading tokens of every sequence that do not count.
        unit: whether rows have unit length.
    """
    if mode == "read":
        rows_SE = blank_empty(hidden.float(), batch)
    else:
        rows_SE = pool(hidden, batch, mode, prompt_tokens)
    return functional.normalize(rows_SE, dim=1) if unit else rows_SE


def pool(
    hidden_TE: Tensor, batch: PackedBatch, mode: PoolingMode, prompt_tokens: int = 0
) -> Tensor:
    """One vector per sequence, [S, E] float32; NaN for a sequence without tokens.

    Args:
        hidden_TE: hidden states of any float dtype.
        batch: where sequences start and end.
        mode: how tokens become one vector.
        prompt_tokens: leading tokens of every sequence that do not count.
    """
    ends_S = batch.cu_seqlens[1:].long()
    lengths_S = batch.cu_seqlens.diff().long()
    # Not torch.where, which copies its numbers to a GPU: a CUDA graph cannot hold that.
    skipped_S = (lengths_S > prompt_tokens) * prompt_tokens
    starts_S = ends_S - lengths_S + skipped_S
    if mode in ("cls", "lasttoken"):
        index_S = starts_S if mode == "cls" else ends_S - 1
        # An empty sequence at either end points outside; its row is overwritten below.
        rows_SE = hidden_TE[index_S.clamp(0, hidden_TE.shape[0] - 1)].float()
    else:
        rows_SE = _reduce(hidden_TE.float(), lengths_S, skipped_S if prompt_tokens else None, mode)
    return blank_empty(rows_SE, batch)


def blank_empty(rows_SE: Tensor, batch: PackedBatch) -> Tensor:
    """Set the row of every sequence without tokens to NaN, in place."""
    return rows_SE.masked_fill_((batch.cu_seqlens.diff() == 0)[:, None], torch.nan)


def _reduce(
    hidden_TE: Tensor, lengths_S: Tensor, skipped_S: Tensor | None, mode: PoolingMode
) -> Tensor:
    """Reduce every sequence to one row, [S, E]; never reads a number back from the device."""
    sequences_S = torch.arange(lengths_S.shape[0], device=hidden_TE.device)
    owner_T = torch.repeat_interleave(sequences_S, lengths_S, output_size=hidden_TE.shape[0])
    counts_S = lengths_S
    if skipped_S is not None or mode == "weightedmean":
        first_T = (lengths_S.cumsum(0) - lengths_S)[owner_T]
        rank_T = torch.arange(hidden_TE.shape[0], device=hidden_TE.device) - first_T
    if skipped_S is not None:
        omitted_T1 = (rank_T < skipped_S[owner_T])[:, None]
        hidden_TE = hidden_TE.masked_fill(omitted_T1, -torch.inf if mode == "max" else 0.0)
        counts_S = lengths_S - skipped_S
    if mode == "max":
        return torch.segment_reduce(hidden_TE, "max", lengths=lengths_S, unsafe=True)
    if mode == "weightedmean":
        weight_T1 = (rank_T + 1).float()[:, None]
        if skipped_S is not None:
            weight_T1 = weight_T1.masked_fill(omitted_T1, 0.0)
        weighted_SE = _sum(hidden_TE * weight_T1, owner_T, lengths_S)
        return weighted_SE / _sum(weight_T1, owner_T, lengths_S)
    divisor_S1 = counts_S.float()[:, None]
    if mode == "mean_sqrt_len_tokens":
        divisor_S1 = divisor_S1.sqrt()
    return _sum(hidden_TE, owner_T, lengths_S) / divisor_S1


def _sum(values_TE: Tensor, owner_T: Tensor, lengths_S: Tensor) -> Tensor:
    """Sum of each sequence's rows, [S, E], in a fixed order on every device."""
    if values_TE.device.type == "cpu":  # fifteen times faster there than segment_reduce
        sums_SE = values_TE.new_zeros(lengths_S.shape[0], values_TE.shape[1])
        return sums_SE.index_add_(0, owner_T, values_TE)
    return torch.segment_reduce(values_TE, "sum", lengths=lengths_S, unsafe=True)
