"""The passes before and after a product of integers, compiled by numba and vectorised by LLVM.

A row is widened to float32 in the cache, whatever it is in memory. Nothing is cached on disk:
numba's cache consists of pickles, and compiling takes two seconds.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.int8_passes import MAX_INT8, TINY, Channels

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]
# The bits of a row in memory: int32 of float32, uint16 of bfloat16.
Bits = npt.NDArray[np.int32] | npt.NDArray[np.uint16]

_MAX, _TINY = np.float32(MAX_INT8), np.float32(TINY)
_ABSOLUTE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_NAN = np.uint16(0x7FC0)
# Adding and subtracting 1.5 · 2^23 rounds a small float32 to an integer, half to even.
_ROUND = np.float32(12_582_912.0)
# erf(x) = x · P(x²) / Q(x²) up to _ERF_END, 1 beyond: a rational function fitted to least relative
# error by iterated weighted least squares; its largest error in float32 is 8e-7.
_ERF_END = np.float32(3.92)
_P = tuple(
    np.float32(x)
    for x in (1.1283797, 0.379497349, 0.0745774582, 0.0108685885, 0.000273455982, -1.54471422e-06)
)
_Q = tuple(np.float32(x) for x in (0.669652283, 0.18934086, 0.0295089222, 0.00255420106))
_ONE, _HALF, _ROOT_HALF = np.float32(1.0), np.float32(0.5), np.float32(0.5**0.5)
# A multiplication and an addition may become one instruction. Nothing else is relaxed: rounding by
# addition relies on the order of operations, and a NaN must stay a NaN.
# Divisions are not checked, as a check keeps a loop from being vectorised.
_compiled = functools.partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")


@_compiled(inline="always")
def _widen(row: Bits, bits: Int32) -> None:
    """The bits of a row as those of float32."""
    if row.itemsize == 2:
        for i in range(row.shape[0]):
            bits[i] = np.int32(row[i]) << 16
    else:
        for i in range(row.shape[0]):
            bits[i] = row[i]


@_compiled(inline="always")
def _narrow(bits: Int32, row: Bits) -> None:
    """Float32 as what a row holds: bfloat16 rounds half to even."""
    if row.itemsize == 2:
        for i in range(row.shape[0]):
            rounded = (bits[i] + 0x7FFF + ((bits[i] >> 16) & 1)) >> 16
            row[i] = _NAN if (bits[i] & _ABSOLUTE) > _INFINITY else np.uint16(rounded)
    else:
        for i in range(row.shape[0]):
            row[i] = bits[i]


@_compiled()
def _quantize(x: Bits, quantized: Int8, scale: Float32, flip: np.int8) -> None:
    values = np.empty(x.shape[1], np.float32)
    bits, scale_bits = values.view(np.int32), scale.view(np.int32)
    for token in range(x.shape[0]):
        _widen(x[token], bits)
        # Without their sign bits floats compare alike as integers, and a NaN is the largest.
        largest = np.int32(0)
        for i in range(bits.shape[0]):
            largest = max(largest, bits[i] & _ABSOLUTE)
        scale_bits[token] = largest
        if scale[token] < _TINY:
            scale[token] = _TINY
        scale[token] /= _MAX
        factor = _ONE / scale[token]
        for i in range(values.shape[0]):
            rounded = (values[i] * factor + _ROUND) - _ROUND
            quantized[token, i] = np.int8(np.int32(rounded)) ^ flip


@_compiled()
def _restore(
    sums: Int32 | Float32,
    scale: Float32,
    channel_scale: Float32,
    bias: Float32,
    gelu: bool,
    residual: Bits,
    out: Bits,
) -> None:
    values, added = np.empty(out.shape[1], np.float32), np.empty(out.shape[1], np.float32)
    bits = values.view(np.int32)
    for token in range(sums.shape[0]):
        token_scale = scale[token]
        for o in range(values.shape[0]):
            values[o] = np.float32(sums[token, o]) * (token_scale * channel_scale[o]) + bias[o]
        if gelu:
            _gelu(values)
        if residual.shape[0]:
            _widen(residual[token], added.view(np.int32))
            for o in range(values.shape[0]):
                values[o] += added[o]
        _narrow(bits, out[token])


@_compiled(inline="always")
def _gelu(values: Float32) -> None:
    """X · (1 + erf(x / √2)) / 2, in place."""
    for i in range(values.shape[0]):
        x = values[i]
        z = x * _ROOT_HALF
        z = _ERF_END if z > _ERF_END else z  # min and max of numba are not vectorised
        z = -_ERF_END if z < -_ERF_END else z
        u = z * z
        p = _P[0] + u * (_P[1] + u * (_P[2] + u * (_P[3] + u * (_P[4] + u * _P[5]))))
        q = _ONE + u * (_Q[0] + u * (_Q[1] + u * (_Q[2] + u * _Q[3])))
        values[i] = _HALF * x * (_ONE + z * p / q)


class CompiledPasses:
    """See `int8_passes.Passes`; every tensor must be contiguous."""

    def quantize(self, x: Tensor, quantized: Tensor, scale: Tensor, zero_point: int) -> None:
        # q + 128 as a byte is q with its highest bit turned.
        flip = np.int8(-128 if zero_point else 0)
        _quantize(_bits(x), quantized.numpy(), scale.numpy(), flip)

    def restore(
        self,
        sums: Tensor,
        scale: Tensor,
        channels: Channels,
        activation: str | None,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        fused = activation in (None, "gelu")
        added = residual if residual is not None and fused else out[:0]
        _restore(
            sums.numpy(),
            scale.numpy(),
            channels.scale.numpy(),
            channels.bias.numpy(),
            activation == "gelu",
            _bits(added),
            _bits(out),
        )
        if activation is not None and not fused:
            activate_(out, activation)
            if residual is not None:
                out.add_(residual)


def _bits(x: Tensor) -> Bits:
    """The bits of a tensor's values, sharing its memory."""
    bits: Bits
    if x.dtype == torch.bfloat16:
        bits = x.view(torch.int16).numpy().view(np.uint16)
    else:
        bits = x.view(torch.int32).numpy()
    return bits
