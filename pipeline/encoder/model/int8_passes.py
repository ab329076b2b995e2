"""The passes before and after a product of integers, step by step with torch alone.

Shapes: t tokens of one tile, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.int8_products import stored

MAX_INT8 = 127.0
# Stands in for the largest value of a token of zeros, so that nothing is divided by zero.
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Channels:
    """What belongs to the outputs of a layer, [O] float32 each."""

    scale: Tensor
    bias: Tensor


class Passes(Protocol):
    """The passes before and after a product of integers."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor, zero_point: int) -> None:
        """Fill quantized [t, I] int8, the bytes of q + zero_point, and scale [t] float32.

        Args:
            x: [t, I] float32.
            quantized: to fill.
            scale: to fill.
            zero_point: 0, or 128 for bytes without a sign.
        """

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channels: Channels,
        activation: str | None,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        """Fill out [t, O] with activation(scale[t] · channels.scale[O] · sums + bias) + residual.

        Args:
            sums: [t, O] int32 or float32.
            scale: of the tokens, [t] float32.
            channels: of the layer.
            activation: None for none.
            residual: [t, O], None for none.
            out: to fill.
        """


class TorchPasses:
    """Step by step, with torch alone."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor, zero_point: int) -> None:
        torch.amax(x.abs(), 1, out=scale)
        scale.clamp_min_(TINY).div_(MAX_INT8)
        quantized.copy_(stored((x * scale.reciprocal()[:, None]).round_(), zero_point))

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channels: Channels,
        activation: str | None,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        values = (sums * channels.scale).mul_(scale[:, None]).add_(channels.bias)
        if activation is not None:
            activate_(values, activation)
        out.copy_(values if residual is None else values.add_(residual))
