"""Products of 8-bit integers on a CPU: torch and oneDNN offer three, and a trial takes the fastest.

Chips differ: on AVX512-VNNI oneDNN has no kernel for signed activations and falls back to a loop
of seconds; on AMX its packed product is more than twice as fast as `torch._int_mm`, which reorders
the weight in every call. All of them give the same sums, so the choice changes no value.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.encoder.device.cpu_time import least_seconds
from pipeline.errors import UsageError

_MAX = 127
_PROBE = 64  # rows and columns of a product that shows whether products are exact
# A product that is slower than the fastest by this on the small probe has no kernel of its own.
_HOPELESS = 20.0
_TOKENS, _REPEATS = 256, 3


class IntegerProduct(Protocol):
    """One weight matrix, ready to be multiplied with integers.

    Attributes:
        zero_point: what stands for zero in the tokens' bytes: 0 of int8, 128 of uint8.
    """

    zero_point: int

    def __call__(self, quantized: Tensor) -> Tensor:
        """Bytes of tokens [T, I] int8, zero_point added → sums [T, O], int32 or float32."""


class TorchProduct:
    """`torch._int_mm`."""

    zero_point = 0

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.t()  # [I, O]

    def __call__(self, quantized: Tensor) -> Tensor:
        return torch._int_mm(quantized, self._weight)


class PackedProduct:
    """oneDNN with the weight in its own blocked layout; a subclass says how tokens are stored."""

    zero_point = 0
    _dtype = torch.int8

    def __init__(self, weight: Tensor) -> None:
        outputs = weight.shape[0]
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale = torch.ones(outputs)
        self._zero = torch.zeros(outputs, dtype=torch.int32)

    def __call__(self, quantized: Tensor) -> Tensor:
        tokens = quantized.view(self._dtype)
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            tokens, 1.0, self.zero_point, self._weight, self._scale, self._zero, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums


class UnsignedPackedProduct(PackedProduct):
    """Tokens from 1 to 255 with 128 for zero: what AVX512-VNNI multiplies."""

    zero_point = 128
    _dtype = torch.uint8


ProductType = type[TorchProduct] | type[PackedProduct]
PRODUCTS: tuple[ProductType, ...] = (TorchProduct, PackedProduct, UnsignedPackedProduct)


@functools.cache
def check_products() -> None:
    """Refuse int8 on a CPU whose products of integers are not exact.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which overflow (torch 2.13).

    Raises:
        UsageError: they are not.
    """
    if not is_exact(TorchProduct):
        raise UsageError(
            "products of 8-bit integers overflow on this CPU, which has no VNNI",
            hint="use --precision float32 here, or a newer CPU",
        )


def is_exact(product: ProductType) -> bool:
    """Whether a product of the largest values and of the smallest is what it should be."""
    weight = torch.full((_PROBE, _PROBE), _MAX, dtype=torch.int8)
    signs = torch.tensor([1, -1]).repeat(_PROBE // 2)[:, None]
    tokens = signs * torch.full((_PROBE, _PROBE), _MAX)
    expected = signs * (_PROBE * _MAX**2)
    return bool((product(weight)(stored(tokens, product.zero_point)) == expected).all())


def stored(values: Tensor, zero_point: int) -> Tensor:
    """Integers from −127 to 127 as the bytes that a product takes, in an int8 tensor."""
    return (values + zero_point).to(torch.int32).to(torch.uint8).view(torch.int8)


@functools.cache
def fastest_product(inputs: int, outputs: int) -> ProductType:
    """The fastest exact product for a weight [O, I], by a trial of milliseconds."""
    check_products()
    candidates = _candidates()
    if len(candidates) == 1:
        return candidates[0]
    weight = torch.randint(-_MAX, _MAX + 1, (outputs, inputs), dtype=torch.int8)
    seconds = _seconds(candidates, weight, _TOKENS)
    return min(candidates, key=seconds.__getitem__)


@functools.cache
def _candidates() -> tuple[ProductType, ...]:
    """The products that this torch has, that are exact, and that have a kernel on this CPU."""
    names = ("qlinear_prepack", "qlinear_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in names):
        return (TorchProduct,)
    exact = [x for x in PRODUCTS if _works(x)]
    seconds = _seconds(exact, torch.ones(_PROBE, _PROBE, dtype=torch.int8), _PROBE)
    most = _HOPELESS * min(seconds.values())
    return tuple(x for x in exact if seconds[x] <= most)


def _works(product: ProductType) -> bool:
    try:
        return is_exact(product)
    except RuntimeError:  # "could not create a primitive descriptor": this CPU has no such product
        return False


@torch.inference_mode()
def _seconds(
    products: Sequence[ProductType], weight: Tensor, tokens: int
) -> dict[ProductType, float]:
    """The least CPU seconds of each."""
    quantized = torch.ones(tokens, weight.shape[1], dtype=torch.int8)
    calls = [functools.partial(product(weight), quantized) for product in products]
    return dict(zip(products, least_seconds(calls, 1 + _REPEATS), strict=True))
