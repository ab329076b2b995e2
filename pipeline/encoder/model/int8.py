"""Products of 8-bit integers on a CPU: what `--precision int8` computes.

y[t, o] = scale[t] · scale[o] · Σ q[t, i] · q[o, i] + bias[o], q = round(127 · v / max |v|):
symmetric, one scale per token and one per output channel, no calibration. The sum is exact in 32
bits up to 133,000 inputs. Shapes: T tokens, t tokens of one tile, I inputs, O outputs.

Quantizing before the product and scaling back after it cost a third of the product's time when
every step is a pass over memory of its own. Where numba is installed (the extra `int8`), each is
one compiled pass; elsewhere torch does them step by step.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Protocol

import torch
from torch import Tensor

from pipeline.encoder.model.activations import activate_
from pipeline.errors import UsageError

logger = logging.getLogger(__name__)

INT8_SCHEME = "int8 products, symmetric, one scale per token and one per output channel"

# Tokens that are quantized, multiplied and scaled back at once: intermediate values stay in the
# cache of a core.
_TOKENS_AT_ONCE = 256
_MAX = 127.0
_PROBE = 64  # rows and columns of a product that shows whether products are exact
# Stands in for the largest value of a token of zeros, so that nothing is divided by zero.
_TINY = 1e-30


@functools.cache
def check_products() -> None:
    """Refuse int8 on a CPU whose products of integers are not exact.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which overflow (torch 2.13).

    Raises:
        UsageError: they are not.
    """
    ones = torch.ones(_PROBE, _PROBE, dtype=torch.int8) * int(_MAX)
    if (torch._int_mm(ones, ones.t()) != _PROBE * int(_MAX) ** 2).any():
        raise UsageError(
            "products of 8-bit integers overflow on this CPU, which has no VNNI",
            hint="use --precision float32 here, or a newer CPU",
        )


class Passes(Protocol):
    """The passes before and after a product of integers."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor) -> None:
        """Fill quantized [t, I] int8 and scale [t] float32 from x [t, I] float32."""

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channel_scale: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        """Out [t, O] = sums · scale[t] · channel_scale[O] + bias[O] (+ residual [t, O])."""


class Int8Linear:
    """A linear layer in 8-bit integers, float32 outside; see `linear.Linear`.

    Attributes:
        passes: what quantizes and scales back.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, passes: Passes | None = None) -> None:
        """Quantize a weight.

        Args:
            weight: [O, I] float32.
            bias: [O] float32, None for none.
            passes: None for the fastest; tests compare others.

        Raises:
            UsageError: this CPU cannot compute exact products.
        """
        check_products()
        self._channel_scale = weight.new_empty(weight.shape[0])  # [O]
        quantized = torch.empty_like(weight, dtype=torch.int8)
        TorchPasses().quantize(weight.contiguous(), quantized, self._channel_scale)
        self._weight = quantized.t()  # [I, O]
        self._bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.contiguous()
        self.passes = passes or fastest_passes()

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        inputs, outputs = self._weight.shape
        x = x.contiguous()
        # A residual is added with the bias, unless an activation stands between.
        added = residual.contiguous() if residual is not None and activation is None else None
        out = x.new_empty(x.shape[0], outputs)
        tile = min(x.shape[0], _TOKENS_AT_ONCE)
        quantized = torch.empty(tile, inputs, dtype=torch.int8)
        sums = torch.empty(tile, outputs, dtype=torch.int32)
        scale = torch.empty(tile)
        for start in range(0, x.shape[0], _TOKENS_AT_ONCE):
            rows = slice(start, min(start + _TOKENS_AT_ONCE, x.shape[0]))
            used = slice(0, rows.stop - start)
            part = out[rows]
            self.passes.quantize(x[rows], quantized[used], scale[used])
            torch._int_mm(quantized[used], self._weight, out=sums[used])
            self.passes.restore(
                sums[used],
                scale[used],
                self._channel_scale,
                self._bias,
                None if added is None else added[rows],
                part,
            )
            if activation is not None:
                activate_(part, activation)
                if residual is not None:
                    part.add_(residual[rows])
        return out


class TorchPasses:
    """Step by step, with torch alone."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor) -> None:
        torch.amax(x.abs(), 1, out=scale)
        scale.clamp_min_(_TINY).div_(_MAX)
        quantized.copy_((x * scale.reciprocal()[:, None]).round_())

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channel_scale: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        torch.mul(sums, channel_scale, out=out)
        out.mul_(scale[:, None]).add_(bias)
        if residual is not None:
            out.add_(residual)


@functools.cache
def fastest_passes() -> Passes:
    """Compiled passes where numba is installed; compiling takes seconds, once per process."""
    if importlib.util.find_spec("numba") is None:
        logger.info("int8 without numba: `pip install 'bei-jobs[int8]'` makes it faster")
        return TorchPasses()
    from pipeline.encoder.model.int8_compiled import CompiledPasses

    return CompiledPasses()
