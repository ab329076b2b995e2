"""Variable-length attention kernels of a GPU, and the choice of one by measurement.

Which one is fastest depends on the GPU, the head size and the installed packages, so every
candidate is tried when an encoder is loaded. A kernel is never used if it fails, cannot be captured
in a CUDA graph, or differs from attention computed sequence by sequence.

Shapes: T tokens of all sequences together, S sequences, H query heads, K key heads, D head size.
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
from pipeline.encoder.device.graph_capture import capture, replay_seconds

logger = logging.getLogger(__name__)

# The trial batch: mixed lengths, then unused entries of cu_seqlens as CUDA graphs have them.
_TRIAL_LENGTHS = (512, 384, 256, 200, 129, 128, 127, 96, 64, 33, 32, 17, 1) * 4
_TRIAL_UNUSED = 5
_TRIAL_RUNS = 20
# Largest difference that rounding explains, for 16-bit outputs of magnitude 1.
_TRIAL_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Sequences:
    """The packed sequences that a kernel attends within, and how."""

    cu_seqlens: Tensor  # [S + 1] int32, on the device
    max_seqlen: int
    scale: float  # factor of the logits
    causal: bool
    window: int | None = None  # largest distance, inclusive


# query [T, H, D], key and value [T, K, D] → [T, H, D]
Kernel = Callable[[Tensor, Tensor, Tensor, Sequences], Tensor]


@functools.cache
def _has_gqa_option() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def torch_varlen(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """FlashAttention as torch ships it; 2.13 has an option for grouped heads, 2.11 needs none."""
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if sequences.window is None else sequences.window
    options: dict[str, Any] = {
        "scale": sequences.scale,
        "window_size": (left, 0 if sequences.causal else left),
    }
    if _has_gqa_option():
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    offsets, longest = sequences.cu_seqlens, sequences.max_seqlen
    out = varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)
    return out if isinstance(out, Tensor) else out[0]


def flash_3(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """FlashAttention 3 for Hopper GPUs, where its package is installed."""
    from flash_attn_interface import flash_attn_varlen_func  # type: ignore[import-not-found]

    left = -1 if sequences.window is None else sequences.window
    offsets, longest = sequences.cu_seqlens, sequences.max_seqlen
    out = flash_attn_varlen_func(
        query, key, value, offsets, offsets, longest, longest,
        softmax_scale=sequences.scale, causal=sequences.causal,
        window_size=(left, 0 if sequences.causal else left),
    )  # fmt: skip
    return out if isinstance(out, Tensor) else out[0]


def cudnn(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """The kernel of cuDNN, through a private operator of torch; it has no windows."""
    offsets, longest = sequences.cu_seqlens, sequences.max_seqlen
    out: Tensor = torch.ops.aten._cudnn_attention_forward(
        query, key, value, None, offsets, offsets, longest, longest,
        False, 0.0, sequences.causal, False, scale=sequences.scale,
    )[0]  # fmt: skip
    return out


def candidates(config: EncoderConfig, device: torch.device) -> dict[str, Kernel]:
    """Kernels that may compute this model on this GPU, by name; the first always can."""
    kernels: dict[str, Kernel] = {"varlen_attn": torch_varlen}
    if torch.cuda.get_device_capability(device)[0] == 9:
        if importlib.util.find_spec("flash_attn_interface"):
            kernels["flash-attention 3"] = flash_3
        if not config.windows and config.head_dim <= 128:
            kernels["cuDNN"] = cudnn
    return kernels


def choose_kernel(config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest candidate whose output is correct."""
    kernels = candidates(config, device)
    if len(kernels) == 1:
        return torch_varlen
    inputs = trial_batch(config, device, dtype)
    expected = reference(*inputs)
    seconds = {name: _measure(name, kernel, inputs, expected) for name, kernel in kernels.items()}
    fastest = min(seconds, key=lambda name: seconds[name])
    logger.info("attention by %s (trial: %s)", fastest, seconds)
    return kernels[fastest]


def trial_batch(
    config: EncoderConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Sequences]:
    """Random inputs of a kernel: query [T, H, D], key and value [T, K, D], their sequences."""
    offsets = torch.tensor([0, *_TRIAL_LENGTHS, *[0] * _TRIAL_UNUSED]).cumsum(0)
    total, heads = int(offsets[-1]), (config.heads, config.kv_heads, config.kv_heads)
    # Views of one tensor, as the fused projection gives them.
    fused = torch.randn(total, sum(heads) * config.head_dim, device=device, dtype=dtype)
    views = torch.split(fused, [n * config.head_dim for n in heads], dim=1)
    query, key, value = (view.view(total, -1, config.head_dim) for view in views)
    cu_seqlens = offsets.to(device, torch.int32)
    sequences = Sequences(cu_seqlens, max(_TRIAL_LENGTHS), config.scale, config.causal)
    return query, key, value, sequences


def reference(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """Attention sequence by sequence in float32, [T, H, D]; windows are ignored."""
    outs = []
    for start, stop in pairwise(sequences.cu_seqlens.tolist()):
        q, k, v = (x[start:stop].float().transpose(0, 1)[None] for x in (query, key, value))
        out = functional.scaled_dot_product_attention(
            q, k, v, is_causal=sequences.causal, scale=sequences.scale, enable_gqa=True
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


@torch.inference_mode()
def _measure(
    name: str, kernel: Kernel, inputs: tuple[Tensor, Tensor, Tensor, Sequences], expected: Tensor
) -> float:
    """Seconds of one replay of a graph; infinite if the kernel fails or is wrong."""
    try:
        if not is_correct(kernel(*inputs), expected):
            raise ValueError("its output is wrong")
        stream = torch.cuda.Stream(expected.device)  # type: ignore[no-untyped-call]
        graph, out = capture(lambda: kernel(*inputs), stream, torch.cuda.graph_pool_handle())
        seconds = replay_seconds(graph, _TRIAL_RUNS)
        if not is_correct(out, expected):
            raise ValueError("its output is wrong in a graph")
        return seconds
    except Exception as error:  # whatever it raises, another kernel is used
        logger.info("no attention by %s: %s", name, error)
        return float("inf")


def is_correct(out: Tensor, expected: Tensor) -> bool:
    """Whether a kernel's output equals `reference` up to the rounding of 16 bits."""
    return out.shape == expected.shape and bool(
        ((out.float() - expected).abs() <= _TRIAL_TOLERANCE).all()
    )
