"""Fused kernels against their twins in torch: the same cases in Triton's interpreter and on a GPU.

A kernel rounds to the type of its output wherever its twin rounds, and differs by the order of its
float32 sums alone. In 16 bits that can turn a rounding the other way: one unit in the last place
(ulp) for each rounding on the way to a value. Besides, there is float32's own rounding, in units of
the row's largest value, because what cancels was of that size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Rope
from pipeline.encoder.model import kernels
from pipeline.encoder.model.kernels import Norm
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.pooling import pooled
from pipeline.encoder.model.positions import rotations

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTHS = (17, 312, 384, 768, 1024)  # of MiniLM and its kin: few are powers of two
ROWS = (0, 1, 13)
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
LENGTHS = (5, 0, 1, 40, 17, 2, 0)
# Float32 ulps of the row's largest value: sums of a thousand terms, and two ways to take an erf.
FLOAT32_ULPS = 8.0
# Share of 16-bit values whose rounding may go the other way.
SELDOM = 0.02


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of a value of some dtype to the next one."""
    exponent = torch.frexp(value.abs()).exponent - 1
    limits = torch.finfo(dtype)
    return (2.0 ** exponent.double() * limits.eps).clamp(min=limits.smallest_normal * limits.eps)


def check(found: Tensor, expected: Tensor, roundings: float, *sources: Tensor) -> None:
    """Equal but for `roundings` of values like these that went the other way."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if not expected.numel():
        return
    size = expected.double().abs().nan_to_num(0.0)
    for source in sources:
        size = torch.maximum(size, source.double().abs())
    allowed = FLOAT32_ULPS * ulp(size.amax(-1, keepdim=True), torch.float32)
    apart = (found.double() - expected.double()).abs()
    apart = apart.masked_fill(found.isnan() & expected.isnan(), 0.0).nan_to_num(torch.inf)
    # Seldom, because both round at the same places; without that, a third of the values differ.
    if expected.dtype != torch.float32:
        assert int((apart > allowed).sum()) <= 2 + SELDOM * expected.numel()
        allowed = allowed + roundings * ulp(size, expected.dtype)
    worst = float((apart / allowed).max())
    assert worst <= 1, f"{worst:.1f} times as far apart as rounding explains"


class Cases:
    """Random inputs on a device, always the same."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._random = torch.Generator().manual_seed(5)

    def normal(self, *shape: int, dtype: torch.dtype, mean: float = 0.0) -> Tensor:
        values = torch.randn(*shape, generator=self._random) + mean
        return values.to(self.device, dtype)

    def norm(self, width: int, dtype: torch.dtype, kind: str) -> Norm:
        """Weights near 1: `layer`, `layer without bias`, `rms`, or `rms in float32`."""
        of_weight = torch.float32 if kind == "rms in float32" else dtype
        weight = self.normal(width, dtype=of_weight, mean=3.0)
        bias = self.normal(width, dtype=dtype) if kind == "layer" else None
        return Norm(weight, bias, 1e-5, kind.startswith("layer"))

    def rows(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Rows that stand apart in memory, as a half of a wider product does."""
        return self.normal(rows, 2 * width + 3, dtype=dtype, mean=0.4)[:, 3 : 3 + width]

    def batch(self, lengths: tuple[int, ...]) -> PackedBatch:
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        return PackedBatch(
            ids=torch.zeros(int(offsets[-1]), dtype=torch.int32, device=self.device),
            cu_seqlens=offsets.to(self.device, torch.int32),
            offsets=offsets.tolist(),
            max_seqlen=max(lengths),
            type_ids=None,
        )


NORMS = ("layer", "layer without bias", "rms", "rms in float32")


def check_norms(fused: Any, device: str, rows: int, width: int, dtype: torch.dtype) -> None:
    cases = Cases(device)
    for kind in NORMS:
        by = cases.norm(width, dtype, kind)
        x, residual = cases.rows(rows, width, dtype), cases.rows(rows, width, dtype)
        plain = kernels.norm(x, by)
        check(fused.norm(x, by), plain, 1)
        found = fused.norm_add(x, residual, by)
        check(found, kernels.norm_add(x, residual, by), 2, plain, residual)
        copy = x.clone()
        total, normed = fused.add_norm(copy, residual, by)
        assert total is copy
        want_total, want_normed = kernels.add_norm(x, residual, by)
        torch.testing.assert_close(total, want_total, rtol=0, atol=0)
        check(normed, want_normed, 1)


def check_rotation(
    fused: Any, device: str, tokens: int, size: int, dtype: torch.dtype, norm: str | None
) -> None:
    cases, queries, keys = Cases(device), 3, 2
    wide = cases.normal(tokens, queries + 2 * keys, size, dtype=dtype)
    heads = wide[:, : queries + keys]  # values follow them in memory
    table = rotations(Rope(theta=10_000.0, dim=size), 64).to(device)
    positions = torch.arange(tokens, device=device) * 7 % 64
    norms = (cases.norm(size, dtype, norm), cases.norm(size, dtype, norm)) if norm else None
    arguments = (heads, queries, table[positions].unsqueeze(1), norms)
    inputs = heads
    if norms:
        inputs = torch.cat([norms[0](heads[:, :queries]), norms[1](heads[:, queries:])], dim=1)
    # Two products are subtracted, each as large as a value of the head.
    largest = inputs.abs().amax(-1, keepdim=True).expand(inputs.shape)
    sources = torch.split(largest, [queries, keys], dim=1)
    expected = kernels.rotate_heads(*arguments)
    for found, want, source in zip(fused.rotate_heads(*arguments), expected, sources, strict=True):
        check(found, want, 2 if norms else 1, source)


def check_gate(
    fused: Any, device: str, rows: int, width: int, dtype: torch.dtype, activation: str
) -> None:
    cases = Cases(device)
    for first in (True, False):
        x = 3 * cases.normal(rows, 2 * width, dtype=dtype)
        found = fused.gate(x.clone(), activation, first)
        check(found, kernels.gate(x, activation, first), 2)


def check_pooling(
    pool: Callable[..., Tensor], device: str, width: int, dtype: torch.dtype, mode: str
) -> None:
    cases, batch = Cases(device), Cases(device).batch(LENGTHS)
    count = len(LENGTHS) if mode == "read" else sum(LENGTHS)
    hidden = cases.rows(count, width, dtype)
    for prompt, unit in ((0, False), (0, True), (3, False), (3, True)):
        expected = pooled(hidden, batch, mode, prompt, unit)  # type: ignore[arg-type]
        check(pool(hidden, batch, mode, prompt, unit), expected, 0)


def check_not_finite(fused: Any, pool: Callable[..., Tensor], device: str) -> None:
    """What overflowed or is no number stays so: the engine finds it by that."""
    cases, dtype = Cases(device), torch.float16
    x, residual = cases.rows(4, 24, dtype).clone(), cases.rows(4, 24, dtype)
    x[0, 3], x[1, 20], x[2, 5] = torch.nan, torch.inf, -torch.inf
    heads, table = x.view(4, 3, 8), torch.ones(4, 1, 8, device=device)
    calls: list[Callable[[Any], Tensor]] = []
    for kind in NORMS:
        by, each = cases.norm(24, dtype, kind), cases.norm(8, dtype, "rms")
        calls += [
            lambda f, by=by: f.norm(x, by),
            lambda f, by=by: f.add_norm(x.clone(), residual, by)[1],
            lambda f, by=by: f.norm_add(x, residual, by),
            lambda f, each=each: f.rotate_heads(heads, 2, table, (each, each))[0],
        ]
    calls += [lambda f, a=a: f.gate(x.clone(), a, True) for a in ACTIVATIONS]
    calls += [lambda f: f.rotate_heads(heads, 2, table, None)[1]]
    for call in calls:
        assert torch.equal(call(fused).isfinite(), call(kernels.PLAIN).isfinite())
    batch = cases.batch((2, 1, 1))
    for unit in (False, True):
        expected = pooled(x, batch, "mean", 0, unit)
        assert torch.equal(pool(x, batch, "mean", 0, unit).isfinite(), expected.isfinite())


def refused(fused: Any, pool: Callable[..., Tensor]) -> list[Callable[[], Any]]:
    """Calls that a kernel would compute wrongly."""
    cases, dtype = Cases("cpu"), torch.float32
    by, wider = cases.norm(8, dtype, "layer"), cases.norm(9, dtype, "layer")
    x, across = cases.rows(4, 8, dtype), cases.normal(8, 4, dtype=dtype).t()
    heads, table = cases.normal(2, 3, 8, dtype=dtype), torch.zeros(2, 1, 8)
    return [
        lambda: fused.norm(across, by),
        lambda: fused.add_norm(x, across, by),
        lambda: fused.norm_add(x, x[:2], by),
        lambda: fused.norm_add(x, x.half(), by),
        lambda: fused.norm(x, wider),
        lambda: fused.norm(cases.normal(1, 20_000, dtype=dtype), cases.norm(20_000, dtype, "rms")),
        lambda: fused.gate(across, "silu", True),
        lambda: fused.gate(x, "tanh", True),
        lambda: pool(across, cases.batch((8,)), "mean", 0, False),
        lambda: fused.rotate_heads(heads, 2, table[:1], None),
        lambda: fused.rotate_heads(heads, 2, table, (by, by)),
    ]
