"""A batch on the device, as every part of an encoder takes it.

Shapes: T tokens, S sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.packing import Int8Array, Int32Array, Masks, Spans


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch on the device."""

    ids: Tensor  # [T] int32 or int64
    cu_seqlens: Tensor  # [S + 1] int32
    offsets: list[int]  # the same, on the host
    max_seqlen: int  # tokens of the longest sequence
    type_ids: Tensor | None  # [T]
    spans: PackedSpans | None = None
    vector_mask: Tensor | None = None  # [T] bool, tokens that have a vector; None: all
    attention_mask: Tensor | None = None  # [T] bool, tokens that others see; None: all


@dataclass(frozen=True, slots=True)
class PackedSpans:
    """The tokens of each span, one span after another; K spans."""

    tokens: Tensor  # [sum of their lengths] int64, index into T
    cu_seqlens: Tensor  # [K + 1] int32


def pack_spans(spans: Spans, device: torch.device) -> PackedSpans:
    """Spans of a batch on a device."""
    bounds = np.concatenate([[0], np.cumsum(spans.counts)])
    tokens = np.arange(bounds[-1]) + np.repeat(spans.firsts - bounds[:-1], spans.counts)
    return PackedSpans(to_device(tokens, device), to_device(bounds.astype(np.int32), device))


def to_device(values: npt.NDArray[np.integer | np.bool_], device: torch.device) -> Tensor:
    """An array on a device, copied without waiting from pinned memory.

    On a CPU the tensor shares the array's memory.
    """
    host = torch.from_numpy(values)
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)


class HostBatch(Protocol):
    """A batch in the host's memory, filled up to a graph's shape or not."""

    @property
    def ids(self) -> Int32Array: ...

    @property
    def cu_seqlens(self) -> Int32Array: ...

    @property
    def max_seqlen(self) -> int: ...

    @property
    def type_ids(self) -> Int8Array | None: ...


def pack_batch(
    batch: HostBatch,
    device: torch.device,
    spans: Spans | None = None,
    masks: Masks | None = None,
) -> PackedBatch:
    """A batch of token ids on a device."""
    types = batch.type_ids
    attention = None if masks is None else masks.attention
    return PackedBatch(
        ids=to_device(batch.ids, device),
        cu_seqlens=to_device(batch.cu_seqlens, device),
        offsets=batch.cu_seqlens.tolist(),
        max_seqlen=batch.max_seqlen,
        type_ids=None if types is None else to_device(types.astype(np.int32), device),
        spans=None if spans is None else pack_spans(spans, device),
        vector_mask=None if masks is None else to_device(masks.vector, device),
        attention_mask=None if attention is None else to_device(attention, device),
    )


def read_tokens(batch: PackedBatch, reads: Reads) -> Tensor | None:
    """Index of the one token per sequence that is read, [S] int64; None if all are read.

    An empty sequence has no token: it gets a neighbour's, and the head overwrites its row.
    """
    if reads == "all":
        return None
    index = batch.cu_seqlens[:-1] if reads == "first" else batch.cu_seqlens[1:] - 1
    return index.long().clamp(0, batch.ids.shape[0] - 1)
