"""Variable-length attention kernels of a GPU, and the choice of one by measurement.

Which is fastest depends on the chip, the head size and what is installed, so every candidate is
tried when an encoder is loaded. One that fails, cannot be captured in a graph, or differs from
attention sequence by sequence is never used.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.device.graph_capture import capture

logger = logging.getLogger(__name__)

# The trial: lengths of a mixed batch, then unused entries as a graph's capacity has them.
_TRIAL_LENGTHS = (512, 384, 256, 200, 129, 128, 127, 96, 64, 33, 32, 17, 1) * 4
_TRIAL_UNUSED = 5
_TRIAL_RUNS = 20
# Largest difference of 16-bit outputs of size ≈ 1 that rounding explains.
_TRIAL_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a kernel attends within."""

    cu_seqlens: Tensor  # [S + 1] int32, on the device
    max_seqlen: int
    scale: float
    causal: bool
    window: int | None = None  # largest distance, inclusive


#: query [T, H, D], key and value [T, K, D] → [T, H, D]
Kernel = Callable[[Tensor, Tensor, Tensor, Sequences], Tensor]


@functools.cache
def _asks_for_grouped_heads() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def torch_varlen(query: Tensor, key: Tensor, value: Tensor, within: Sequences) -> Tensor:
    """FlashAttention as torch ships it: 2.11 takes grouped heads as they are, 2.13 asks."""
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if within.window is None else within.window
    options: dict[str, Any] = {
        "scale": within.scale,
        "window_size": (left, 0 if within.causal else left),
    }
    if _asks_for_grouped_heads():
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    offsets, longest = within.cu_seqlens, within.max_seqlen
    out = varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)
    return out if isinstance(out, Tensor) else out[0]


def flash_3(query: Tensor, key: Tensor, value: Tensor, within: Sequences) -> Tensor:
    """FlashAttention 3 for Hopper, where its package is installed."""
    from flash_attn_interface import flash_attn_varlen_func  # type: ignore[import-not-found]

    left = -1 if within.window is None else within.window
    offsets, longest = within.cu_seqlens, within.max_seqlen
    out = flash_attn_varlen_func(
        query, key, value, offsets, offsets, longest, longest,
        softmax_scale=within.scale, causal=within.causal,
        window_size=(left, 0 if within.causal else left),
    )  # fmt: skip
    return out if isinstance(out, Tensor) else out[0]


def cudnn(query: Tensor, key: Tensor, value: Tensor, within: Sequences) -> Tensor:
    """The kernel of cuDNN, through a private operator of torch; it knows no window."""
    offsets, longest = within.cu_seqlens, within.max_seqlen
    out: Tensor = torch.ops.aten._cudnn_attention_forward(
        query, key, value, None, offsets, offsets, longest, longest,
        False, 0.0, within.causal, False, scale=within.scale,
    )[0]  # fmt: skip
    return out


def candidates(config: EncoderConfig, device: torch.device) -> dict[str, Kernel]:
    """What may compute this model on this GPU, by name; the first always does."""
    found: dict[str, Kernel] = {"varlen_attn": torch_varlen}
    if torch.cuda.get_device_capability(device)[0] == 9:
        if importlib.util.find_spec("flash_attn_interface"):
            found["flash-attention 3"] = flash_3
        if not config.windows and config.head_dim <= 128:
            found["cuDNN"] = cudnn
    return found


def choose(config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest candidate that computes attention as it should."""
    found = candidates(config, device)
    if len(found) == 1:
        return torch_varlen
    queries, keys, values, within = _trial(config, device, dtype)
    expected = reference(queries, keys, values, within)
    seconds = {
        name: _measure(name, kernel, (queries, keys, values, within), expected)
        for name, kernel in found.items()
    }
    best = min(seconds, key=lambda name: seconds[name])
    logger.info("attention by %s (trial: %s)", best, seconds)
    return found[best]


def _trial(
    config: EncoderConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Sequences]:
    """Random queries, keys and values of one batch."""
    ends = torch.tensor([0, *_TRIAL_LENGTHS, *[0] * _TRIAL_UNUSED]).cumsum(0)
    total, heads = int(ends[-1]), (config.heads, config.kv_heads, config.kv_heads)
    # Parts of one tensor, as the fused projection leaves them.
    fused = torch.randn(total, sum(heads) * config.head_dim, device=device, dtype=dtype)
    parts = torch.split(fused, [n * config.head_dim for n in heads], dim=1)
    query, key, value = (part.view(total, -1, config.head_dim) for part in parts)
    offsets = ends.to(device, torch.int32)
    within = Sequences(offsets, max(_TRIAL_LENGTHS), config.scale, config.causal)
    return query, key, value, within


def reference(query: Tensor, key: Tensor, value: Tensor, within: Sequences) -> Tensor:
    """Attention sequence by sequence in float32, [T, H, D]; windows are not for trials."""
    outs = []
    ends = within.cu_seqlens.tolist()
    for start, stop in pairwise(ends):
        q, k, v = (x[start:stop].float().transpose(0, 1)[None] for x in (query, key, value))
        out = functional.scaled_dot_product_attention(
            q, k, v, is_causal=within.causal, scale=within.scale, enable_gqa=True
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


@torch.inference_mode()
def _measure(
    name: str, kernel: Kernel, inputs: tuple[Tensor, Tensor, Tensor, Sequences], expected: Tensor
) -> float:
    """Seconds of a run in a graph; infinite where the kernel fails or is wrong."""
    try:
        if not is_right(kernel(*inputs), expected):
            raise ValueError("its output is wrong")
        stream = torch.cuda.Stream(expected.device)  # type: ignore[no-untyped-call]
        graph, out = capture(lambda: kernel(*inputs), stream, torch.cuda.graph_pool_handle())
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begin.record()
        for _ in range(_TRIAL_RUNS):
            graph.replay()
        end.record()
        end.synchronize()
        if not is_right(out, expected):
            raise ValueError("its output is wrong in a graph")
        return float(begin.elapsed_time(end)) / 1000 / _TRIAL_RUNS
    except Exception as error:  # whatever it raises, another kernel computes
        logger.info("no attention by %s: %s", name, error)
        return float("inf")


def is_right(out: Tensor, expected: Tensor) -> bool:
    """Whether a kernel's output is attention, up to the rounding of 16 bits."""
    return out.shape == expected.shape and bool(
        ((out.float() - expected).abs() <= _TRIAL_TOLERANCE).all()
    )
