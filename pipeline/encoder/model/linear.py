"""Products of activations with weights, each by the fastest kernel of its device and precision.

Shapes: T tokens, I inputs, O outputs. Every linear has one call for product, bias, activation and
residual, so that a kernel can fuse them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.int8 import Int8Linear

# Activation → oneDNN's (function, algorithm). oneDNN approximates erf to about 1e-6.
_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", ""),
          "relu": ("relu", ""), "tanh": ("tanh", "")}  # fmt: skip
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


class Linear(Protocol):
    """One weight matrix of the encoder, ready to multiply."""

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """activation(x · weightᵀ + bias) + residual: [T, I] → [T, O]."""


class PlainLinear:
    """The product that torch chooses for the device; activation and sum follow in place."""

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

    The weight is reordered once, not in every call. Bias, activation and residual are applied
    while a tile of the product is still in registers.
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


def make_linear(weight: Tensor, bias: Tensor | None, *, quantize: bool = False) -> Linear:
    """The fastest linear for a weight on its device.

    Args:
        weight: [O, I]; its dtype is the precision of the product.
        bias: [O], None for none.
        quantize: multiply 8-bit integers instead.
    """
    if quantize:
        return Int8Linear(weight, bias)
    if weight.device.type == "cpu" and _packs(weight.dtype):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of a dtype on this CPU, and torch has its private operators."""
    operators = torch.ops.mkldnn
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False  # such as torch's builds for Apple's chips, which lack the operators too
    if not all(hasattr(operators, name) for name in _OPERATORS):
        return False
    return dtype == torch.float32 or bool(operators._is_mkldnn_bf16_supported())
