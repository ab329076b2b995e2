"""Attention over packed sequences: every token attends inside its own sequence and nowhere else.

Shapes: T tokens, S sequences, H query heads, K key heads (H is a multiple of K), D head size.
Two engines:
- `GroupedAttention`, everywhere: runs of equal length go through scaled_dot_product_attention
  together, so nothing is padded and no mask separates sequences. Also the reference.
- `VarlenAttention`, CUDA in 16 bits: a variable-length kernel, see `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.model.varlen_kernels import Kernel, Sequences

# Entries of one attention mask or bias, all heads: 64 MB in float32. Longer texts are attended
# to in blocks of query rows.
MAX_MASK_ENTRIES = 16 * 1024 * 1024
# T5's and MPNet's: distances beyond this share the last bucket.
RELATIVE_MAX_DISTANCE = 128


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring sequences of one length."""

    start: int  # first token
    stop: int  # one past the last token
    length: int  # tokens of each sequence

    @property
    def count(self) -> int:
        """Sequences in the run."""
        return (self.stop - self.start) // self.length

    def split(self, x: Tensor) -> Tensor:
        """The run's part of a packed tensor, [T, H, D] → a view [n, H, length, D]."""
        part = x[self.start : self.stop]
        return part.view(self.count, self.length, *x.shape[1:]).transpose(1, 2)


def runs(offsets: list[int]) -> list[Run]:
    """Group neighbours of equal length; empty sequences belong to no run.

    Args:
        offsets: where each sequence starts and the last one ends.
    """
    found: list[Run] = []
    for start, stop in pairwise(offsets):
        length = stop - start
        if length == 0:
            continue
        if found and found[-1].length == length:
            found[-1] = Run(found[-1].start, stop, length)
        else:
            found.append(Run(start, stop, length))
    return found


class GroupedAttention:
    """Attention of one batch, run by run. Made once per batch, used by every layer."""

    def __init__(self, config: EncoderConfig, groups: list[Run], bias: PositionBias | None) -> None:
        self._config = config
        self._runs = groups
        self._bias = bias

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """Attend; query [T, H, D], key and value [T, K, D] → [T, H * D]."""
        parts = []
        for run in self._runs:
            q, k, v = (run.split(x) for x in (query, key, value))
            out = self._attend(q, k, v, window)  # [n, H, L, D]
            parts.append(out.transpose(1, 2).reshape(run.stop - run.start, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        length = q.shape[2]
        reach = window if window is not None and window < length - 1 else None
        if reach is None and self._bias is None:
            return self._sdpa(q, k, v, None, self._config.causal)
        blocks = [
            self._sdpa(
                q[:, :, rows],
                k[:, :, columns],
                v[:, :, columns],
                self._mask(rows, columns, reach, q),
            )
            for rows, columns in self._blocks(length, reach)
        ]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)

    def _sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        grouped = self._config.kv_heads != self._config.heads
        return functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal, scale=self._config.scale, enable_gqa=grouped
        )

    def _blocks(self, length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
        """Query rows and the keys that they can see, small enough for a mask in memory."""
        heads = self._config.heads if self._bias is not None else 1
        if window is not None:
            # A square of side 2w wastes half of its entries; wide enough to be efficient.
            step = max(2 * window, 256)
        else:
            step = max(1, MAX_MASK_ENTRIES // (heads * length))
        for start in range(0, length, step):
            stop = min(start + step, length)
            reach = length if window is None else window
            last = stop if self._config.causal else min(length, stop + reach)
            yield slice(start, stop), slice(max(0, start - reach), last)

    def _mask(self, rows: slice, columns: slice, window: int | None, like: Tensor) -> Tensor:
        """What is added to the logits, [1, 1 or H, rows, columns] in the dtype of `like`."""
        shape = (1, rows.stop - rows.start, columns.stop - columns.start)
        base = like.new_zeros(shape)
        if self._bias is not None:
            base = self._bias.block(rows, columns).to(like.dtype)
        queries = torch.arange(rows.start, rows.stop, device=like.device)[:, None]
        keys = torch.arange(columns.start, columns.stop, device=like.device)[None, :]
        if window is not None:
            base = base.masked_fill((queries - keys).abs() > window, -math.inf)
        if self._config.causal:
            base = base.masked_fill(keys > queries, -math.inf)
        return base[None]  # four axes: the CPU kernel takes no three


class PositionBias:
    """A bias on attention logits that depends on key position − query position alone.

    Kept as one row per distance, [H, 2R − 1] with distance 0 at R − 1, and as a square for
    the lengths in use, so that a batch of short texts slices and never gathers.
    """

    def __init__(self, config: EncoderConfig, table: Tensor | None, device: torch.device) -> None:
        self._config = config
        self._table = table  # [buckets, H] of a learned bias, None for ALiBi
        self._device = device
        self._square = torch.empty(config.heads, 0, 0, device=device)

    def block(self, rows: slice, columns: slice) -> Tensor:
        """The bias of some queries on some keys, [H, rows, columns], float32."""
        size = max(rows.stop, columns.stop)
        if self._config.heads * size * size > MAX_MASK_ENTRIES:
            return self._compute(rows, columns)
        square = self._square  # another thread may put a smaller one in its place
        if square.shape[1] < size:
            square = self._square = self._compute(slice(0, size), slice(0, size))
        return square[:, rows, columns]

    def _compute(self, rows: slice, columns: slice) -> Tensor:
        queries = torch.arange(rows.start, rows.stop, device=self._device)[:, None]
        keys = torch.arange(columns.start, columns.stop, device=self._device)[None, :]
        distance = keys - queries
        if self._table is None:
            slopes = alibi_slopes(self._config.heads).to(self._device)
            return -slopes[:, None, None] * distance.abs()
        buckets = relative_buckets(distance, self._config.relative_buckets)
        return self._table.float()[buckets].permute(2, 0, 1)


def alibi_slopes(heads: int) -> Tensor:
    """Slope of every head, [heads] float32.

    Formula: https://arxiv.org/abs/2108.12409. For a number that is no power of two the slopes of
    the next lower power are followed by every second one of the next higher.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes)


def relative_buckets(distance: Tensor, buckets: int) -> Tensor:
    """Bucket of key position − query position, as T5 defines it for encoders.

    Half of the buckets serve each direction; in each, half are exact and the rest logarithmic up
    to RELATIVE_MAX_DISTANCE. Source: https://arxiv.org/abs/1910.10683, appendix and code.
    """
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    spread = math.log(RELATIVE_MAX_DISTANCE / exact)
    # log(0) is −inf; the bucket of a small distance is never read from here.
    far = exact + (torch.log(size.float() / exact) / spread * (half - exact)).long()
    far = far.clamp(max=half - 1)
    return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)


class VarlenAttention:
    """A variable-length kernel, for 16-bit queries on CUDA."""

    def __init__(
        self, config: EncoderConfig, cu_seqlens: Tensor, max_seqlen: int, kernel: Kernel
    ) -> None:
        self._within = Sequences(cu_seqlens, max_seqlen, config.scale, config.causal)
        self._kernel = kernel

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """Attend; query [T, H, D], key and value [T, K, D] → [T, H * D]."""
        within = self._within if window is None else replace(self._within, window=window)
        return self._kernel(query, key, value, within).flatten(1)


def varlen_supported(config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `VarlenAttention` computes this model: 16 bits, CUDA, and no bias on the logits.

    ALiBi is such a bias: torch's wheels have FlashAttention without it ("This flash attention
    build does not support alibi", 2.11).
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
