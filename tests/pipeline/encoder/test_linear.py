"""Linears: each kernel computes the same function."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pipeline.encoder.model.int8 import Int8Linear
from pipeline.encoder.model.linear import PackedLinear, PlainLinear, make_linear

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_torch_without_onednn_computes_plain_products(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())  # as for Apple's chips
    assert isinstance(make_linear(_random(8, 8).to(dtype), None), PlainLinear)
