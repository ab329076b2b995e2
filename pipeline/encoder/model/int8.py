"""Linear layers in 8-bit integers on a CPU: what `--precision int8` computes.

y[t, o] = scale[t] · scale[o] · Σ q[t, i] · q[o, i] + bias[o], q = round(127 · v / max |v|):
symmetric, one scale per token and one per output channel, no calibration. The sum is exact in 32
bits up to 133,000 inputs. Shapes: T tokens, t tokens of one tile, I inputs, O outputs.

Quantizing before the product and scaling back after it cost a third of the product's time when
every step is a pass over memory of its own. Where numba is installed (the extra `int8`), each is
one compiled pass; elsewhere torch does them step by step.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from pipeline.encoder.model.int8_passes import Channels, Passes, TorchPasses
from pipeline.encoder.model.int8_products import IntegerProduct, fastest_product

logger = logging.getLogger(__name__)

INT8_SCHEME = "int8 products, symmetric, one scale per token and one per output channel"

# Tokens that are quantized, multiplied and scaled back at once: fewer cost calls, more the cache.
_TOKENS_AT_ONCE = 512


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
        outputs, inputs = weight.shape
        scale, quantized = weight.new_empty(outputs), torch.empty_like(weight, dtype=torch.int8)
        TorchPasses().quantize(weight.contiguous(), quantized, scale, 0)
        self._multiply: IntegerProduct = fastest_product(inputs, outputs)(quantized)
        self._channels = Channels(
            scale, weight.new_zeros(outputs) if bias is None else bias.contiguous()
        )
        self.passes = passes or fastest_passes()

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        x = x.contiguous()
        if residual is not None:
            residual = residual.contiguous()
        out = x.new_empty(x.shape[0], self._channels.bias.shape[0])
        tile = min(x.shape[0], _TOKENS_AT_ONCE)
        quantized, scale = torch.empty(tile, x.shape[1], dtype=torch.int8), torch.empty(tile)
        for start in range(0, x.shape[0], _TOKENS_AT_ONCE):
            rows = slice(start, min(start + _TOKENS_AT_ONCE, x.shape[0]))
            used = slice(0, rows.stop - start)
            self.passes.quantize(x[rows], quantized[used], scale[used], self._multiply.zero_point)
            self.passes.restore(
                self._multiply(quantized[used]),
                scale[used],
                self._channels,
                activation,
                None if residual is None else residual[rows],
                out[rows],
            )
        return out


@functools.cache
def fastest_passes() -> Passes:
    """Compiled passes where numba is installed; compiling takes seconds, once per process."""
    try:
        from pipeline.encoder.model.int8_compiled import CompiledPasses
    except ImportError as error:  # not installed, or not for this NumPy
        logger.info("int8 is slower without numba, the extra `int8`: %s", error)
        return TorchPasses()
    return CompiledPasses()
