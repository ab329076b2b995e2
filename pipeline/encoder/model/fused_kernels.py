"""The functions of `kernels`, and pooling, as one pass over memory each, in Triton on a GPU.

Everything is float32 inside and rounded wherever the function in torch rounds, so the two differ by
the order of a sum, which may turn one rounding the other way. A launch allocates its output,
and neither waits for the device nor tunes anything: block sizes follow from the width alone, so a
CUDA graph can hold it. Only `choose_fused` and tests import this module: Triton is no dependency of
ours, but of torch's builds for CUDA.

Shape suffixes: see `kernels`; S  sequences.
"""

# ruff: noqa: N803, N806 - shape suffixes, and constants of a kernel in capitals
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.encoder.model.kernels import PLAIN, Kernels, Norm
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.pooling import Pooled

# Values that one program holds, unless a row is longer: enough for four warps.
_TILE = 4096
_MAX_WIDTH = 16_384
# Of an elementwise pass: columns, and values that one program holds.
_GATE_COLUMNS = 1024
_GATE_TILE = 2048
_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
_POOLED = ("mean", "cls", "lasttoken", "read")
# functional.normalize's default.
_LEAST_LENGTH = 1e-12


@triton.jit(do_not_specialize=["rows"])
def fused_norm(
    x, residual, weight, bias, out, rows, x_stride, residual_stride, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, LAYER: tl.constexpr,
    BIAS: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """Norm of `ROWS` rows; a residual is added before, into `x`, or after."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if BEFORE:
        added = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
        total = (value + added.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(x + row * x_stride + column, total, mask=inside)
        value = total.to(tl.float32)
    if LAYER:
        mean = tl.sum(value, axis=1) / WIDTH
        value = tl.where(inside, value - mean[:, None], 0.0)
    square = tl.sum(value * value, axis=1) / WIDTH
    value = value * (1.0 / tl.sqrt(square + eps))[:, None]
    value *= tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    if AFTER:
        added = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
        value = value.to(out.dtype.element_ty).to(tl.float32) + added.to(tl.float32)
    tl.store(out + row * WIDTH + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def fused_rotate(
    x, rotation, query_weight, key_weight, out, rows, token_stride, head_stride, rotation_stride,
    eps, HEADS: tl.constexpr, QUERIES: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Rotation of `ROWS` heads, of as many tokens as they belong to, after their RMSNorm."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < HALF)
    token, head = row // HEADS, row % HEADS
    source = x + token * token_stride + head * head_stride + column
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        square = (tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / (2 * HALF)
        scale = (1.0 / tl.sqrt(square + eps))[:, None]
        of_query = tl.load(query_weight + column, mask=column < HALF, other=0.0).to(tl.float32)
        of_key = tl.load(key_weight + column, mask=column < HALF, other=0.0).to(tl.float32)
        first = first * scale * tl.where(head < QUERIES, of_query, of_key)
        first = first.to(x.dtype.element_ty).to(tl.float32)
        at = column + HALF
        of_query = tl.load(query_weight + at, mask=column < HALF, other=0.0).to(tl.float32)
        of_key = tl.load(key_weight + at, mask=column < HALF, other=0.0).to(tl.float32)
        second = second * scale * tl.where(head < QUERIES, of_query, of_key)
        second = second.to(x.dtype.element_ty).to(tl.float32)
    angle = rotation + token * rotation_stride + column
    cos = tl.load(angle, mask=inside, other=0.0)
    sin = tl.load(angle + HALF, mask=inside, other=0.0)
    target = out + row * (2 * HALF) + column
    tl.store(target, (first * cos - second * sin).to(out.dtype.element_ty), mask=inside)
    tl.store(target + HALF, (second * cos + first * sin).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def fused_gate(
    gate, up, out, rows, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Activation of the gate, times up, of a block of `ROWS` rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    x = tl.load(gate + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # (1 + tanh(u)) / 2 = 1 / (1 + exp(−2u))
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    else:
        x = tl.where(x < 0.0, 0.0, x)  # keeps NaN
    x = x.to(out.dtype.element_ty).to(tl.float32)
    x *= tl.load(up + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, x.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["prompt"])
def fused_pool(
    hidden, offsets, out, prompt, stride, least, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, MODE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """One row from the tokens of one sequence; NaN if it has none."""
    sequence = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    start, stop = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    first = tl.where(stop - start > prompt, start + prompt, start)
    if MODE == "mean":
        total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for block in range(first, stop, ROWS):
            row = (block + tl.arange(0, ROWS))[:, None]
            inside = (row < stop) & (column[None, :] < WIDTH)
            source = hidden + row.to(tl.int64) * stride + column[None, :]
            total += tl.load(source, mask=inside, other=0.0).to(tl.float32)
        value = tl.sum(total, axis=0) / (stop - first).to(tl.float32)
    else:
        row = first
        if MODE == "lasttoken":
            row = stop - 1
        if MODE == "read":
            row = sequence
        inside = (column < WIDTH) & (stop > start)
        source = hidden + row.to(tl.int64) * stride + column
        value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    if UNIT:
        length = tl.sqrt(tl.sum(tl.where(column < WIDTH, value * value, 0.0), axis=0))
        value = value / tl.where(length < least, least, length)  # keeps NaN
    value = tl.where(stop > start, value, float("nan"))
    tl.store(out + sequence.to(tl.int64) * WIDTH + column, value, mask=column < WIDTH)


def _tile(width: int) -> dict[str, Any]:
    """Columns and rows that one program holds, and its warps."""
    if width > _MAX_WIDTH:
        raise ValueError(f"rows of {width} values are too wide")
    block = triton.next_power_of_2(width)
    warps = max(4, min(16, block // 1024))
    return {"BLOCK": block, "ROWS": max(1, min(64, _TILE // block)), "num_warps": warps}


def _check(*tensors: Tensor) -> None:
    """Refuse what a kernel would read wrongly."""
    if any(x.stride(-1) != 1 and x.shape[-1] > 1 for x in tensors):
        raise ValueError("values of a row are not side by side")


def _norm(x: Tensor, by: Norm, residual: Tensor | None = None, *, before: bool = False) -> Tensor:
    rows, width = x.shape
    bias = by.weight if by.bias is None else by.bias
    other = x if residual is None else residual
    _check(x, other, by.weight, bias)
    if other.shape != x.shape or by.weight.shape != (width,) or other.dtype != x.dtype:
        raise ValueError("input, residual and weight do not go together")
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile = _tile(width)
    if rows:
        fused_norm[(triton.cdiv(rows, tile["ROWS"]),)](
            x, other, by.weight, bias, out, rows, x.stride(0), other.stride(0), by.eps,
            WIDTH=width, LAYER=by.layer, BIAS=by.bias is not None, BEFORE=before,
            AFTER=residual is not None and not before, **tile,
        )  # fmt: skip
    return out


def norm(x_RE: Tensor, by: Norm) -> Tensor:
    """See `kernels.norm`."""
    return _norm(x_RE, by)


def add_norm(x_RE: Tensor, residual_RE: Tensor, by: Norm) -> tuple[Tensor, Tensor]:
    """See `kernels.add_norm`."""
    normed_RE = _norm(x_RE, by, residual_RE, before=True)
    return x_RE, normed_RE


def norm_add(x_RE: Tensor, residual_RE: Tensor, by: Norm) -> Tensor:
    """See `kernels.norm_add`."""
    return _norm(x_RE, by, residual_RE)


def rotate_heads(
    heads_TND: Tensor, queries: int, rotation_T1D: Tensor, norms: tuple[Norm, Norm] | None
) -> tuple[Tensor, Tensor]:
    """See `kernels.rotate_heads`."""
    tokens, heads, size = heads_TND.shape
    query, key = (by.weight for by in norms) if norms else (rotation_T1D, rotation_T1D)
    _check(heads_TND, rotation_T1D, query, key)
    if rotation_T1D.shape != (tokens, 1, size) or (norms and norms[0].layer):
        raise ValueError("heads, rotation and norms do not go together")
    out = torch.empty(heads_TND.shape, dtype=heads_TND.dtype, device=heads_TND.device)
    tile = _tile(size // 2)
    if tokens:
        fused_rotate[(triton.cdiv(tokens * heads, tile["ROWS"]),)](
            heads_TND, rotation_T1D, query, key, out, tokens * heads, heads_TND.stride(0),
            heads_TND.stride(1), rotation_T1D.stride(0), norms[0].eps if norms else 0.0,
            HEADS=heads, QUERIES=queries, HALF=size // 2, NORM=norms is not None, **tile,
        )  # fmt: skip
    query_THD, key_TKD = torch.split(out, [queries, heads - queries], dim=1)
    return query_THD, key_TKD


def gate(gate_up_RI: Tensor, activation: str, gate_first: bool) -> Tensor:
    """See `kernels.gate`."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"no activation {activation}")
    _check(gate_up_RI)
    first_RI, second_RI = gate_up_RI.chunk(2, dim=1)
    gate_RI, up_RI = (first_RI, second_RI) if gate_first else (second_RI, first_RI)
    rows, width = gate_RI.shape
    out = torch.empty(gate_RI.shape, dtype=gate_RI.dtype, device=gate_RI.device)
    block = min(_GATE_COLUMNS, triton.next_power_of_2(width))
    height = _GATE_TILE // block
    if rows:
        fused_gate[(triton.cdiv(rows, height), triton.cdiv(width, block))](
            gate_RI, up_RI, out, rows, gate_RI.stride(0), WIDTH=width, BLOCK=block, ROWS=height,
            ACTIVATION=activation,
        )  # fmt: skip
    return out


def pooled(
    hidden: Tensor, batch: PackedBatch, mode: Pooled, prompt_tokens: int, unit: bool
) -> Tensor:
    """See `pooling.pooled`; rarer modes are computed there."""
    if mode not in _POOLED:
        return PLAIN.pooled(hidden, batch, mode, prompt_tokens, unit)
    _check(hidden)
    sequences, width = batch.cu_seqlens.shape[0] - 1, hidden.shape[1]
    out = torch.empty(sequences, width, dtype=torch.float32, device=hidden.device)
    if sequences:
        fused_pool[(sequences,)](
            hidden, batch.cu_seqlens, out, prompt_tokens, hidden.stride(0), _LEAST_LENGTH,
            WIDTH=width, MODE=mode, UNIT=unit, **_tile(width),
        )  # fmt: skip
    return out


FUSED = Kernels(norm, add_norm, norm_add, rotate_heads, gate, pooled)
