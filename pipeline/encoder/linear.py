"""Products of activations with weights, each the way its device and precision do best.

Shapes: T tokens, I inputs, O outputs. Every linear is called alike: product, bias, activation
and residual in one go, so that a kernel that fuses them can.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# oneDNN's names of our activations: (function, algorithm). It approximates erf to about 1e-6.
_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", ""),
          "relu": ("relu", ""), "tanh": ("tanh", "")}  # fmt: skip


# Tokens that are quantized, multiplied and scaled back at once: what is between stays in a
# core's own cache.
_INT8_TOKENS = 256
_INT8_MAX = 127.0
INT8_SCHEME = "int8 products, symmetric, one scale a token and one an output channel"
# Largest value of a token of zeros, so that nothing is divided by zero.
_TINY = 1e-30


class Linear(Protocol):
    """One weight matrix of the encoder, ready to multiply."""

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """activation(x · weightᵀ + bias) + residual: [T, I] → [T, O]."""


class PlainLinear:
    """Whatever torch calls for the device; activation and sum run in place behind it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight  # [O, I]
        self._bias = bias

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        out = functional.linear(x, self._weight, self._bias)
        if activation is not None:
            activate_(out, activation)
        return out if residual is None else out.add_(residual)


class PackedLinear:
    """oneDNN with the weight in its own blocked layout: float32 and bfloat16 on a CPU.

    The layout is chosen once, so no call rearranges the weight, and bias, activation and residual
    are applied while a tile of the product is still in registers.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        out: Tensor
        if activation is None and residual is not None:
            return product.binary(x, residual, self._weight, self._bias, "add")  # type: ignore[no-any-return]
        name, algorithm = ("none", "") if activation is None else _FUSED[activation]
        out = product(x, self._weight, self._bias, name, [], algorithm)
        return out if residual is None else out.add_(residual)


class Int8Linear:
    """Products of 8-bit integers on a CPU: symmetric, one scale a token and one an output channel.

    y[t, o] = scale[t] · scale[o] · Σ q[t, i] · q[o, i] + bias[o], q = round(127 · v / max |v|).
    The sum is exact in 32 bits up to 133,000 inputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scale, quantized = _quantize(weight)
        self._weight = quantized.t()  # [I, O] int8
        self._scale = scale[:, 0]  # [O]
        self._bias = bias

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        out = x.new_empty(x.shape[0], self._weight.shape[1])
        for start in range(0, x.shape[0], _INT8_TOKENS):
            rows = slice(start, start + _INT8_TOKENS)
            scale, quantized = _quantize(x[rows])
            part = torch.mul(torch._int_mm(quantized, self._weight), self._scale, out=out[rows])
            part.mul_(scale)
            if self._bias is not None:
                part.add_(self._bias)
            if activation is not None:
                activate_(part, activation)
            if residual is not None:
                part.add_(residual[rows])
        return out


def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale of every row, [n, 1] float32, and the row in its units, [n, m] int8."""
    scale = x.abs().amax(1, keepdim=True).clamp_min_(_TINY).div_(_INT8_MAX)
    return scale, (x / scale).round_().to(torch.int8)


def make_linear(weight: Tensor, bias: Tensor | None, *, quantize: bool = False) -> Linear:
    """The fastest linear that computes in the weight's own precision on its device, or int8."""
    if quantize:
        return Int8Linear(weight, bias)
    if weight.device.type == "cpu" and _packs(weight.dtype):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of a dtype on this chip; torch's operators are private."""
    operators = torch.ops.mkldnn
    if dtype == torch.bfloat16 and not operators._is_mkldnn_bf16_supported():
        return False
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def activate_(x: Tensor, activation: str) -> Tensor:
    """Apply an activation in place and return its argument."""
    if activation in ("gelu", "gelu_tanh"):
        # torch.nn.functional has no in-place form.
        torch.ops.aten.gelu_(x, approximate="tanh" if activation == "gelu_tanh" else "none")
        return x
    if activation == "silu":
        return functional.silu(x, inplace=True)
    if activation == "tanh":
        return x.tanh_()
    return x.relu_()
