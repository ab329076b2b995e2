"""Linears: each kernel computes the same function; int8 says how far it is off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.encoder.linear import Int8Linear, PackedLinear, PlainLinear, make_linear

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu", "relu", "tanh")


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("tokens", [0, 1, 7, 300])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_packed_weights_compute_what_plain_ones_do(
    tokens: int, biased: bool, summed: bool, activation: str | None
) -> None:
    weight, bias = _random(48, 32) / 6, _random(48) if biased else None
    x, residual = _random(tokens, 32), _random(tokens, 48) if summed else None
    kept = None if residual is None else residual.clone()
    expected = PlainLinear(weight, bias)(x, activation, residual)
    with torch.inference_mode():
        found = PackedLinear(weight, bias)(x, activation, residual)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if residual is not None and kept is not None:
        torch.testing.assert_close(residual, kept, rtol=0, atol=0)  # read, not written


def test_packed_weights_take_a_part_of_a_wider_tensor() -> None:
    weight, wide = _random(16, 32), _random(9, 64)
    part = wide.chunk(2, dim=1)[1]
    with torch.inference_mode():
        found = PackedLinear(weight, None)(part)
    torch.testing.assert_close(found, part @ weight.t(), rtol=0, atol=1e-5)


def test_float32_and_bfloat16_on_a_cpu_are_packed() -> None:
    weight = _random(8, 8)
    assert isinstance(make_linear(weight, None), PackedLinear)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert isinstance(make_linear(weight.bfloat16(), None), PackedLinear)
    assert isinstance(make_linear(weight.half(), None), PlainLinear)
    assert isinstance(make_linear(weight, None, quantize=True), Int8Linear)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_int8_is_within_its_rounding_of_float32(activation: str | None) -> None:
    weight, bias, x, residual = (
        _random(48, 96) / 10,
        _random(48),
        _random(600, 96),
        _random(600, 48),
    )
    # One token and one channel of another size: their scales are their own.
    x[5] *= 1000
    weight[7] *= 1000
    expected = PlainLinear(weight, bias)(x, activation, residual)
    found = Int8Linear(weight, bias)(x, activation, residual)
    # Either rounds by at most half of 1/127 of its own largest value; 96 errors add up randomly.
    size = x.abs().amax(1, keepdim=True) * weight.abs().amax(1)
    assert ((found - expected).abs() <= 0.1 * size + 1e-5).all()
    plain = [5, 7]
    others = torch.ones(600, 48, dtype=torch.bool)
    others[plain[0]], others[:, plain[1]] = False, False
    assert (found - expected)[others].abs().max() < 0.1


def test_int8_of_a_token_does_not_depend_on_its_neighbours() -> None:
    linear, x = Int8Linear(_random(16, 32), _random(16)), _random(700, 32)
    together = linear(x, "gelu")
    alone = torch.cat([linear(x[i : i + 1], "gelu") for i in (0, 255, 256, 699)])
    torch.testing.assert_close(alone, together[[0, 255, 256, 699]], rtol=0, atol=1e-6)


def test_int8_of_zeros_is_the_bias_and_of_nan_is_nan() -> None:
    bias = _random(16)
    x = torch.zeros(3, 32)
    x[1, 4], x[2, 4] = torch.nan, torch.inf
    found = Int8Linear(_random(16, 32), bias)(x)
    torch.testing.assert_close(found[0], bias)
    assert not found[1:].isfinite().any()
