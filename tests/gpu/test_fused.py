"""Fused kernels compiled for a GPU: the values of their twins in torch, and what the trial says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kernel_cases as cases
import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine

from pipeline.encoder import engine as engine_module
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.packing import gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPE = pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)

Golden = Callable[[str], Checkpoint]
Make = Callable[[int, int], list[list[int]]]


@pytest.fixture
def fused() -> Any:
    pytest.importorskip("triton")
    from pipeline.encoder.model.fused_kernels import FUSED

    return FUSED


@DTYPE
@pytest.mark.parametrize("width", [*cases.WIDTHS, 4096])
def test_norms(width: int, dtype: torch.dtype, fused: Any) -> None:
    for rows in (*cases.ROWS, 5000):
        cases.check_norms(fused, "cuda", rows, width, dtype)


@DTYPE
@pytest.mark.parametrize("norm", [None, "rms", "rms in float32"])
@pytest.mark.parametrize("size", [24, 64, 128, 256])
def test_rotation(size: int, norm: str | None, dtype: torch.dtype, fused: Any) -> None:
    for tokens in (*cases.ROWS, 3000):
        cases.check_rotation(fused, "cuda", tokens, size, dtype, norm)


@DTYPE
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_gates(activation: str, dtype: torch.dtype, fused: Any) -> None:
    for rows, width in ((0, 8), (1, 1536), (5, 1000), (70, 40), (3000, 2624)):
        cases.check_gate(fused, "cuda", rows, width, dtype, activation)


@DTYPE
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "read", "max"])
def test_pooling(mode: str, dtype: torch.dtype, fused: Any) -> None:
    for width in (17, 384, 1024, 4096):
        cases.check_pooling(fused.pooled, "cuda", width, dtype, mode)


def test_no_value_becomes_finite(fused: Any) -> None:
    cases.check_not_finite(fused, fused.pooled, "cuda")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_all_of_them_gives_its_rows_in_graphs(
    name: str, golden: Golden, sentences: Make, fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(forward: Any, head: Any) -> dict[str, Any]:
        if forward.capturable:
            forward.kernels = fused
            head.pooled = fused.pooled
        return {}

    texts = sentences(24, 60)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
    flat = np.array([token for text in texts for token in text], np.int32)
    batches = [gather(flat, offsets, np.arange(24))] * 3
    rows = []
    for choose in (lambda *_: {}, give):
        monkeypatch.setattr(engine_module, "choose_fused", choose)
        engine = open_engine(golden(name), device="cuda")
        rows.append([out for _, out in engine.run(batches)])
    for plain, found in zip(*rows, strict=True):
        # Rounding of 16 bits, in units of logits that go beyond 20.
        atol = 4e-3 * (8 if engine.precision == "bfloat16" else 1) * max(1, abs(plain).max())
        np.testing.assert_allclose(found, plain, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["bert_mean", "modernbert_cls", "gte_qwen2", "embeddinggemma"])
def test_the_trial_refuses_none(name: str, golden: Golden, fused: Any) -> None:
    choice = open_engine(golden(name), device="cuda").choices["fused-kernels"]
    assert "refused" not in choice.reason
    assert choice.reason.startswith("by trial")
