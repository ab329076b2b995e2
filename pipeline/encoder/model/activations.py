"""Activation functions, in place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def activate_(x: Tensor, activation: str) -> Tensor:
    """Apply an activation to `x` in place and return `x`."""
    if activation in ("gelu", "gelu_tanh"):
        # torch.nn.functional has no in-place form.
        torch.ops.aten.gelu_(x, approximate="tanh" if activation == "gelu_tanh" else "none")
        return x
    if activation == "silu":
        return functional.silu(x, inplace=True)
    if activation == "tanh":
        return x.tanh_()
    return x.relu_()
