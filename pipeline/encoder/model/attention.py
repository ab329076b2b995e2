"""Attention over packed sequences: every token attends inside its own sequence and nowhere else.

Two implementations:
- `GroupedAttention`, everywhere: neighbouring sequences of equal length go through
  scaled_dot_product_attention together, or through `batched_attention` in bfloat16 on a CPU, so
  nothing is padded and no mask separates sequences. It is also the reference.
- `VarlenAttention`, on CUDA in 16 bits: a variable-length kernel, see `varlen_kernels`.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    B  sequences of one group; L  tokens of each of them
    H  query heads; K  key heads, and H is a multiple of K; N  heads of either kind; D  head size
    F  all query heads side by side, H * D
    Q  query rows of a tile; C  key columns of a tile
    P  H where there is a bias on the logits, else 1
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.model.batched_attention import (
    MAX_LOGITS,
    attend_in_products,
    of_each_head,
)
from pipeline.encoder.model.varlen_kernels import Kernel, Sequences

# Entries of one attention mask or bias, all heads: 64 MiB in float32. Longer texts are attended to
# in tiles of query rows.
MAX_MASK_ENTRIES = 16 * 1024 * 1024
# Of T5 and MPNet: larger distances share the last bucket.
RELATIVE_MAX_DISTANCE = 128
# Query rows of a tile whose logits are kept: fewer waste the products.
_LEAST_ROWS = 64


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Neighbouring sequences of one length."""

    start: int  # first token
    stop: int  # one past the last token
    length: int  # tokens of each sequence

    @property
    def count(self) -> int:
        """Sequences in the group."""
        return (self.stop - self.start) // self.length

    def split(self, x_TND: Tensor) -> Tensor:
        """The group's part of a packed tensor, [T, N, D] → a view [B, N, L, D]."""
        part = x_TND[self.start : self.stop]
        return part.view(self.count, self.length, *x_TND.shape[1:]).transpose(1, 2)


def group_equal_lengths(offsets: list[int]) -> list[LengthGroup]:
    """Group neighbouring sequences of equal length; empty sequences belong to no group.

    Args:
        offsets: where each sequence starts and the last one ends.
    """
    groups: list[LengthGroup] = []
    for start, stop in pairwise(offsets):
        length = stop - start
        if length == 0:
            continue
        if groups and groups[-1].length == length:
            groups[-1] = LengthGroup(groups[-1].start, stop, length)
        else:
            groups.append(LengthGroup(start, stop, length))
    return groups


class GroupedAttention:
    """Attention of one batch, group by group. Made once per batch, used by every layer."""

    def __init__(
        self,
        config: EncoderConfig,
        groups: list[LengthGroup],
        bias: PositionBias | None,
        seen_T: Tensor | None = None,
    ) -> None:
        """Keep what all layers need.

        Args:
            config: of the encoder.
            groups: of all sequences.
            bias: on the logits, None for none.
            seen_T: whether a token is attended to, None if all are.
        """
        self._config = config
        self._groups = groups
        self._bias = bias
        self._hidden_B11L = [None if seen_T is None else _hidden(seen_T, one) for one in groups]

    def __call__(
        self, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, window: int | None
    ) -> Tensor:
        """Attend within a window, the largest distance that is seen; returns [T, F]."""
        parts = []
        for group, hidden_B11L in zip(self._groups, self._hidden_B11L, strict=True):
            q_BHLD, k_BKLD, v_BKLD = (group.split(x) for x in (query_THD, key_TKD, value_TKD))
            out_BHLD = self._attend(q_BHLD, k_BKLD, v_BKLD, window, hidden_B11L)
            parts.append(out_BHLD.transpose(1, 2).reshape(group.stop - group.start, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(
        self,
        q_BHLD: Tensor,
        k_BKLD: Tensor,
        v_BKLD: Tensor,
        window: int | None,
        hidden_B11L: Tensor | None,
    ) -> Tensor:
        length = q_BHLD.shape[2]
        reach = window if window is not None and window < length - 1 else None
        batched = _pays_in_products(q_BHLD) and hidden_B11L is None
        masked = reach is not None or self._bias is not None or hidden_B11L is not None
        masked = masked or (batched and self._config.causal)
        if not masked and not batched:
            return self._sdpa(q_BHLD, k_BKLD, v_BKLD, None, self._config.causal)
        k, v = k_BKLD, v_BKLD
        if batched:
            k, v = (of_each_head(x, q_BHLD.shape[1]) for x in (k, v))
        tiles = [
            (self._in_products if batched else self._sdpa)(
                q_BHLD[:, :, rows],
                k[:, :, columns],
                v[:, :, columns],
                self._mask(rows, columns, reach, q_BHLD, hidden_B11L) if masked else None,
            )
            for rows, columns in self._tiles(length, reach, MAX_LOGITS if batched else None)
        ]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=2)

    def _in_products(self, q: Tensor, k: Tensor, v: Tensor, mask_1PQC: Tensor | None) -> Tensor:
        return attend_in_products(q, k, v, mask_1PQC, self._config.scale)

    def _sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, mask_1PQC: Tensor | None, causal: bool = False
    ) -> Tensor:
        grouped = self._config.kv_heads != self._config.heads
        if grouped and not shares_heads(q, mask_1PQC):
            k, v = (of_each_head(x, self._config.heads) for x in (k, v))
            grouped = False
        return functional.scaled_dot_product_attention(
            q, k, v, mask_1PQC, is_causal=causal, scale=self._config.scale, enable_gqa=grouped
        )

    def _tiles(
        self, length: int, window: int | None, most: int | None
    ) -> Iterator[tuple[slice, slice]]:
        """Query rows and the key columns that they see, small enough for a mask in memory.

        Args:
            length: tokens of each sequence.
            window: the largest distance that is seen; None for any.
            most: entries of one head's logits; None where none are kept.
        """
        heads = self._config.heads if self._bias is not None else 1
        if window is not None:
            # A square of side 2 * window wastes half of its entries; 256 rows are efficient.
            step = max(2 * window, 256)
        else:
            step = max(1, MAX_MASK_ENTRIES // (heads * length))
        if most is not None:
            seen = length if window is None else min(length, step + 2 * window)
            step = min(step, max(_LEAST_ROWS, most // seen))
        for start in range(0, length, step):
            stop = min(start + step, length)
            reach = length if window is None else window
            last = stop if self._config.causal else min(length, stop + reach)
            yield slice(start, stop), slice(max(0, start - reach), last)

    def _mask(
        self,
        rows: slice,
        columns: slice,
        window: int | None,
        like: Tensor,
        hidden_B11L: Tensor | None,
    ) -> Tensor:
        """What is added to the logits of a tile, [1 or B, P, Q, C] in the dtype of `like`."""
        shape = (1, rows.stop - rows.start, columns.stop - columns.start)
        mask_PQC = like.new_zeros(shape)
        if self._bias is not None:
            mask_PQC = self._bias.tile(rows, columns).to(like.dtype)
        queries_Q1 = torch.arange(rows.start, rows.stop, device=like.device)[:, None]
        keys_1C = torch.arange(columns.start, columns.stop, device=like.device)[None, :]
        if window is not None:
            mask_PQC = mask_PQC.masked_fill((queries_Q1 - keys_1C).abs() > window, -math.inf)
        if self._config.causal:
            mask_PQC = mask_PQC.masked_fill(keys_1C > queries_Q1, -math.inf)
        if hidden_B11L is not None:
            return mask_PQC[None].masked_fill(hidden_B11L[..., columns], -math.inf)
        return mask_PQC[None]  # the CPU kernel does not accept three axes


def _hidden(seen_T: Tensor, group: LengthGroup) -> Tensor | None:
    """Which keys of a group's sequences nothing attends to, [B, 1, 1, L]; None if all are seen."""
    seen_BL = seen_T[group.start : group.stop].view(group.count, group.length)
    return None if bool(seen_BL.all()) else ~seen_BL[:, None, None]


def shares_heads(q: Tensor, mask_1PQC: Tensor | None) -> bool:
    """Whether scaled_dot_product_attention takes fewer key heads than query heads as they are.

    On CUDA only FlashAttention does: in 16 bits, without a mask, heads of up to 256. Otherwise
    torch would take plain products, whose logits have gigabytes for a long text (32,000 tokens, 16
    heads: 65 GB).
    """
    if q.device.type != "cuda":
        return True
    if mask_1PQC is not None or q.dtype == torch.float32 or q.shape[-1] > 256:
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _pays_in_products(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


class PositionBias:
    """A bias on attention logits that depends only on key position − query position.

    Kept as a square for the lengths in use, so that a batch of short texts slices and never
    gathers.
    """

    def __init__(self, config: EncoderConfig, table: Tensor | None, device: torch.device) -> None:
        self._config = config
        self._table = table  # [buckets, H] of a learned bias, None for ALiBi
        self._device = device
        self._square_HQC = torch.empty(config.heads, 0, 0, device=device)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """The bias of some queries on some keys, [H, Q, C] float32."""
        size = max(rows.stop, columns.stop)
        if self._config.heads * size * size > MAX_MASK_ENTRIES:
            return self._compute(rows, columns)
        square_HQC = self._square_HQC  # another thread may replace it by a smaller one
        if square_HQC.shape[1] < size:
            square_HQC = self._square_HQC = self._compute(slice(0, size), slice(0, size))
        return square_HQC[:, rows, columns]

    def _compute(self, rows: slice, columns: slice) -> Tensor:
        queries_Q1 = torch.arange(rows.start, rows.stop, device=self._device)[:, None]
        keys_1C = torch.arange(columns.start, columns.stop, device=self._device)[None, :]
        distance_QC = keys_1C - queries_Q1
        if self._table is None:
            slopes_H = alibi_slopes(self._config.heads).to(self._device)
            return -slopes_H[:, None, None] * distance_QC.abs()
        buckets_QC = relative_buckets(distance_QC, self._config.relative_buckets)
        return self._table.float()[buckets_QC].permute(2, 0, 1)


def alibi_slopes(heads: int) -> Tensor:
    """Slope of every head, [H] float32.

    Formula: https://arxiv.org/abs/2108.12409. If the number of heads is not a power of two, the
    slopes of the next lower power are followed by every second slope of the next higher power.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes)


def relative_buckets(distance: Tensor, buckets: int) -> Tensor:
    """Bucket of key position − query position, int64 of any shape, as T5 defines it for encoders.

    Half of the buckets serve each direction. Half of those hold one distance each, the others
    grow logarithmically up to RELATIVE_MAX_DISTANCE. Source: https://arxiv.org/abs/1910.10683,
    appendix and code.
    """
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    spread = math.log(RELATIVE_MAX_DISTANCE / exact)
    # log(0) is −inf, but small distances are not read from `far`.
    far = exact + (torch.log(size.float() / exact) / spread * (half - exact)).long()
    far = far.clamp(max=half - 1)
    return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)


class VarlenAttention:
    """A variable-length kernel, for 16-bit queries on CUDA."""

    def __init__(
        self, config: EncoderConfig, cu_seqlens: Tensor, max_seqlen: int, kernel: Kernel
    ) -> None:
        self._sequences = Sequences(cu_seqlens, max_seqlen, config.scale, config.causal)
        self._kernel = kernel

    def __call__(
        self, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, window: int | None
    ) -> Tensor:
        """Attend within a window, the largest distance that is seen; returns [T, F]."""
        sequences = self._sequences if window is None else replace(self._sequences, window=window)
        return self._kernel(query_THD, key_TKD, value_TKD, sequences).flatten(1)


def varlen_supported(config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `VarlenAttention` computes this model: 16 bits, CUDA, and no bias on the logits.

    ALiBi is such a bias: FlashAttention in torch's wheels is built without it ("This flash
    attention build does not support alibi", 2.11).
    """
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and config.relative_buckets == 0
        and not config.alibi
        and config.head_dim <= 256
        and config.head_dim % 8 == 0
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
