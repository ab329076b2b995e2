"""The passes before and after a product of integers, compiled by numba and vectorised by LLVM.

Nothing is cached on disk: numba's cache consists of pickles, and compiling takes two seconds.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from torch import Tensor

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]

_MAX = np.float32(127.0)
_TINY = np.float32(1e-30)
_ABSOLUTE = np.int32(0x7FFFFFFF)
# Adding and subtracting 1.5 · 2^23 rounds a small float32 to an integer, half to even.
_ROUND = np.float32(12_582_912.0)
# A multiplication and an addition may become one instruction. Nothing else is relaxed: rounding by
# addition relies on the order of operations, and a NaN must stay a NaN.
_FAST = {"contract"}
_MATRIX, _SUMS, _VECTOR = "float32[:, ::1]", "int32[:, ::1]", "float32[::1]"


@numba.njit(f"void({_MATRIX}, int8[:, ::1], {_VECTOR})", nogil=True, fastmath=_FAST)
def _quantize(x: Float32, quantized: Int8, scale: Float32) -> None:
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
            quantized[token, i] = np.int8(np.int32(rounded))


@numba.njit(
    f"void({_SUMS}, {_VECTOR}, {_VECTOR}, {_VECTOR}, {_MATRIX})", nogil=True, fastmath=_FAST
)
def _restore(
    sums: Int32, scale: Float32, channel_scale: Float32, bias: Float32, out: Float32
) -> None:
    for token in range(sums.shape[0]):
        token_scale = scale[token]
        for o in range(sums.shape[1]):
            out[token, o] = np.float32(sums[token, o]) * (token_scale * channel_scale[o]) + bias[o]


@numba.njit(
    f"void({_SUMS}, {_VECTOR}, {_VECTOR}, {_VECTOR}, {_MATRIX}, {_MATRIX})",
    nogil=True,
    fastmath=_FAST,
)
def _restore_and_add(
    sums: Int32,
    scale: Float32,
    channel_scale: Float32,
    bias: Float32,
    residual: Float32,
    out: Float32,
) -> None:
    for token in range(sums.shape[0]):
        token_scale = scale[token]
        for o in range(sums.shape[1]):
            value = np.float32(sums[token, o]) * (token_scale * channel_scale[o]) + bias[o]
            out[token, o] = value + residual[token, o]


class CompiledPasses:
    """See `int8.Passes`; every tensor must be contiguous."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor) -> None:
        _quantize(x.numpy(), quantized.numpy(), scale.numpy())

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channel_scale: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        inputs = (sums.numpy(), scale.numpy(), channel_scale.numpy(), bias.numpy())
        if residual is None:
            _restore(*inputs, out.numpy())
        else:
            _restore_and_add(*inputs, residual.numpy(), out.numpy())
