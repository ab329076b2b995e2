"""int8: how far it is off, and that compiled passes do what torch's steps do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from corpora import ROOT
from torch import Tensor

from pipeline.encoder.model import int8_products
from pipeline.encoder.model.int8 import Int8Linear, fastest_passes
from pipeline.encoder.model.int8_compiled import CompiledPasses
from pipeline.encoder.model.int8_passes import Passes, TorchPasses
from pipeline.encoder.model.int8_products import (
    PRODUCTS,
    ProductType,
    TorchProduct,
    _works,
    fastest_product,
    is_exact,
    stored,
)
from pipeline.encoder.model.linear import PlainLinear

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu", "relu", "tanh")


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=[TorchPasses, CompiledPasses])
def passes(request: pytest.FixtureRequest) -> Passes:
    made: Passes = request.param()
    return made


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_int8_is_within_its_rounding_of_float32(activation: str | None, passes: Passes) -> None:
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
    found = Int8Linear(weight, bias, passes)(x, activation, residual)
    # Either rounds by at most half of 1/127 of its own largest value; 96 errors add up randomly.
    size = x.abs().amax(1, keepdim=True) * weight.abs().amax(1)
    assert ((found - expected).abs() <= 0.1 * size + 1e-5).all()
    others = torch.ones(600, 48, dtype=torch.bool)
    others[5], others[:, 7] = False, False
    assert (found - expected)[others].abs().max() < 0.1


@pytest.mark.parametrize("tokens", [0, 1, 511, 512, 513])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_passes_do_what_torch_does(
    tokens: int, biased: bool, summed: bool, activation: str | None
) -> None:
    weight, bias = _random(48, 70), _random(48) if biased else None
    x = _random(tokens, 70) * 3
    residual = _random(tokens, 48) if summed else None
    kept = None if residual is None else residual.clone()
    compiled = Int8Linear(weight, bias, CompiledPasses())(x, activation, residual)
    steps = Int8Linear(weight, bias, TorchPasses())(x, activation, residual)
    torch.testing.assert_close(compiled, steps, rtol=1e-5, atol=1e-4)
    if residual is not None and kept is not None:
        torch.testing.assert_close(residual, kept, rtol=0, atol=0)  # read, not written


@pytest.mark.parametrize("zero_point", [0, 128])
def test_both_round_to_the_same_integers(passes: Passes, zero_point: int) -> None:
    x = _random(40, 130)
    x[3] = torch.linspace(-127, 127, 130)  # many halves
    x[4], x[5, 2] = 0.0, -1e30
    quantized, scale = torch.empty(40, 130, dtype=torch.int8), torch.empty(40)
    passes.quantize(x, quantized, scale, zero_point)
    quantized = quantized.view(torch.uint8).int() - 128 if zero_point else quantized
    torch.testing.assert_close(scale, x.abs().amax(1).clamp_min(1e-30) / 127)
    exact = (x.double() / scale[:, None].double()).round()
    # Float32 may fall on the other side of a half.
    assert (quantized - exact).abs().max() <= 1
    assert (quantized != exact).double().mean() < 0.002
    assert int(quantized.abs().max()) == 127


def test_a_part_of_a_wider_tensor_is_taken(passes: Passes) -> None:
    linear, wide = Int8Linear(_random(16, 32), None, passes), _random(9, 64)
    part = wide.chunk(2, dim=1)[1]
    torch.testing.assert_close(linear(part), linear(part.contiguous()), rtol=0, atol=0)


def test_int8_of_a_token_does_not_depend_on_its_neighbours(passes: Passes) -> None:
    linear, x = Int8Linear(_random(16, 32), _random(16), passes), _random(700, 32)
    together = linear(x, "gelu")
    alone = torch.cat([linear(x[i : i + 1], "gelu") for i in (0, 511, 512, 699)])
    torch.testing.assert_close(alone, together[[0, 511, 512, 699]], rtol=0, atol=1e-6)


def test_int8_of_zeros_is_the_bias_and_of_nan_is_nan(passes: Passes) -> None:
    bias = _random(16)
    x = torch.zeros(3, 32)
    x[1, 4], x[2, 4] = torch.nan, torch.inf
    found = Int8Linear(_random(16, 32), bias, passes)(x)
    torch.testing.assert_close(found[0], bias)
    assert not found[1:].isfinite().any()


def test_numba_is_taken_where_it_is_installed_and_missed_nowhere() -> None:
    assert isinstance(fastest_passes(), CompiledPasses)
    without = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from pipeline.encoder.model.int8 import Int8Linear\n"
        "print(type(Int8Linear(torch.eye(8), None).passes).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert done.stdout.strip() == "TorchPasses", done.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="about x86 alone")
def test_a_cpu_whose_products_overflow_is_refused() -> None:
    """As one without VNNI: oneDNN adds pairs of products in 16 bits there."""
    code = "from pipeline.encoder.model.int8_products import check_products as check; check()"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
    )
    assert "UsageError: products of 8-bit integers overflow on this CPU" in ran.stderr


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_that_this_cpu_has_gives_the_same_sums(product: ProductType) -> None:
    if not _works(product):
        pytest.skip("this CPU or torch lacks it")
    weight, tokens = (torch.randint(-127, 128, shape) for shape in ((24, 96), (5, 96)))
    sums = product(weight.to(torch.int8))(stored(tokens, product.zero_point))
    assert (sums == tokens @ weight.t()).all()


def test_the_product_taken_is_an_exact_one() -> None:
    product = fastest_product(384, 1536)
    assert product in PRODUCTS
    assert is_exact(product)


def test_a_product_that_is_not_exact_or_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(TorchProduct):
        def __call__(self, quantized: Tensor) -> Tensor:
            return super().__call__(quantized) + 1

    class Missing(TorchProduct):
        def __call__(self, quantized: Tensor) -> Tensor:
            raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(int8_products, "PRODUCTS", (Wrong, Missing, TorchProduct))
    assert int8_products._candidates.__wrapped__() == (TorchProduct,)
