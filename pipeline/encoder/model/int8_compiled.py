"""The passes before and after a product of integers, compiled by numba and vectorised by LLVM.

Nothing is cached on disk: numba's cache consists of pickles, and compiling takes two seconds.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.int8_passes import MAX_INT8, TINY, Channels

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]

_MAX, _TINY = np.float32(MAX_INT8), np.float32(TINY)
_ABSOLUTE = np.int32(0x7FFFFFFF)
# Adding and subtracting 1.5 · 2^23 rounds a small float32 to an integer, half to even.
_ROUND = np.float32(12_582_912.0)
# A multiplication and an addition may become one instruction. Nothing else is relaxed: rounding by
# addition relies on the order of operations, and a NaN must stay a NaN.
_compiled = numba.njit(nogil=True, fastmath={"contract"})


@_compiled
def _quantize(x: Float32, quantized: Int8, scale: Float32, flip: np.int8) -> None:
    bits, scale_bits = x.view(np.int32), scale.view(np.int32)
    for token in range(x.shape[0]):
        # Without their sign bits floats compare alike as integers, and a NaN is the largest.
        largest = np.int32(0)
        for i in range(x.shape[1]):
            largest = max(largest, bits[token, i] & _ABSOLUTE)
        scale_bits[token] = largest
        if scale[token] < _TINY:
            scale[token] = _TINY
        scale[token] /= _MAX
        factor = np.float32(1.0) / scale[token]
        for i in range(x.shape[1]):
            rounded = (x[token, i] * factor + _ROUND) - _ROUND
            quantized[token, i] = np.int8(np.int32(rounded)) ^ flip


@_compiled
def _restore(
    sums: Int32 | Float32,
    scale: Float32,
    channel_scale: Float32,
    bias: Float32,
    residual: Float32,
    out: Float32,
) -> None:
    for token in range(sums.shape[0]):
        token_scale, values = scale[token], out[token]
        for o in range(values.shape[0]):
            values[o] = np.float32(sums[token, o]) * (token_scale * channel_scale[o]) + bias[o]
        if residual.shape[0]:
            for o in range(values.shape[0]):
                values[o] += residual[token, o]


class CompiledPasses:
    """See `int8_passes.Passes`; every tensor must be contiguous."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor, zero_point: int) -> None:
        # q + 128 as a byte is q with its highest bit turned.
        flip = np.int8(-128 if zero_point else 0)
        _quantize(x.numpy(), quantized.numpy(), scale.numpy(), flip)

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channels: Channels,
        activation: str | None,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        # A residual is added in the same pass, unless an activation stands between.
        added = out[:0] if residual is None or activation is not None else residual
        _restore(
            sums.numpy(),
            scale.numpy(),
            channels.scale.numpy(),
            channels.bias.numpy(),
            added.numpy(),
            out.numpy(),
        )
        if activation is not None:
            activate_(out, activation)
            if residual is not None:
                out.add_(residual)
