"""Each fused kernel against its twin in torch, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kernel_cases as cases
import pytest
import torch

from pipeline.encoder.model.fused_kernels import FUSED, pooled

_GUARD = 4096


@pytest.fixture(autouse=True)
def nothing_is_written_behind_an_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a kernel's mask leaves out stays as it was."""
    tails: list[torch.Tensor] = []

    def guarded(*shape: Any, dtype: torch.dtype, device: Any) -> torch.Tensor:
        size = shape[0] if isinstance(shape[0], torch.Size) else torch.Size(shape)
        buffer = torch.full((size.numel() + _GUARD,), 7.0, dtype=dtype, device=device)
        tails.append(buffer[size.numel() :])
        return buffer[: size.numel()].view(size)

    monkeypatch.setattr(torch, "empty", guarded)
    yield
    monkeypatch.undo()
    assert all((tail == 7.0).all() for tail in tails)


DTYPE = pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)


@DTYPE
@pytest.mark.parametrize("width", cases.WIDTHS)
def test_norms(width: int, dtype: torch.dtype) -> None:
    for rows in (*cases.ROWS, 70) if width == 17 else cases.ROWS:
        cases.check_norms(FUSED, "cpu", rows, width, dtype)


@DTYPE
@pytest.mark.parametrize("norm", [None, "rms", "rms in float32"])
@pytest.mark.parametrize("size", [24, 64])
def test_rotation(size: int, norm: str | None, dtype: torch.dtype) -> None:
    for tokens in cases.ROWS:
        cases.check_rotation(FUSED, "cpu", tokens, size, dtype, norm)


@DTYPE
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_gates(activation: str, dtype: torch.dtype) -> None:
    for rows, width in ((0, 8), (1, 1536), (5, 1000), (70, 40)):
        cases.check_gate(FUSED, "cpu", rows, width, dtype, activation)


@DTYPE
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "read", "max"])
def test_pooling(mode: str, dtype: torch.dtype) -> None:
    for width in (17, 384, 1024):
        cases.check_pooling(pooled, "cpu", width, dtype, mode)


def test_no_value_becomes_finite() -> None:
    cases.check_not_finite(FUSED, pooled, "cpu")


@pytest.mark.parametrize("number", range(len(cases.refused(FUSED, pooled))))
def test_what_a_kernel_would_read_wrongly_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"kernel|side by side|together|activation|wide"):
        cases.refused(FUSED, pooled)[number]()
