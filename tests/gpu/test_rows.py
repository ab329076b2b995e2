"""The same layouts on a CUDA device: 16 bits against float32, and copies that overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.engine import Engine
from pipeline.encoder.lanes import make_lane
from pipeline.encoder.model.attention import GroupedAttention, group_equal_lengths

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Least cosine of a golden's random weights, harder than real ones: transformers' own bfloat16 goes
# down to 0.988 on gte_qwen2. `scripts/bench sizes` holds real sizes to 0.999.
LEAST = {"float16": 0.999, "bfloat16": 0.98}

Golden = Callable[[str], Checkpoint]
Make = Callable[[int, int], list[list[int]]]


def _rows(engine: Engine, texts: list[list[int]], compute: Callable[..., list[Any]]) -> Any:
    rows = compute(engine, texts, token_budget=900, per_token=engine.per_token)
    if engine.per_token:
        return np.concatenate(rows)
    return np.array(rows).reshape(len(texts), -1)


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_rows_of_the_cpu(
    name: str,
    precision: str,
    golden: Golden,
    compute: Callable[..., list[Any]],
    sentences: Make,
) -> None:
    checkpoint = golden(name)
    texts = sentences(60, 180)
    expected = _rows(open_engine(checkpoint), texts, compute)
    engine = open_engine(checkpoint, device="cuda", precision=precision)
    got = _rows(engine, texts, compute)
    if precision == "float32":
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
    elif got.shape[1] > 1:
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((got * expected).sum(axis=1) / norms >= LEAST[engine.precision]).all()
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "write", [layouts.nomic_moe, layouts.mistral, layouts.static_embedding, layouts.model2vec]
)
def test_a_layout_made_here_gives_the_rows_of_the_cpu(
    write: Callable[[Path], Path],
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
    sentences: Make,
) -> None:
    checkpoint, texts = resolve(str(write(tmp_path / "model")), cache_dir=cache), sentences(60, 180)
    expected = _rows(open_engine(checkpoint), texts, compute)
    for precision, tolerance in (("float32", 1e-3), ("auto", 0.05)):
        engine = open_engine(checkpoint, device="cuda", precision=precision)
        np.testing.assert_allclose(_rows(engine, texts, compute), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_text_of_shared_key_heads_needs_no_memory_for_its_logits(
    dtype: torch.dtype, golden: Golden
) -> None:
    length, device = 16_384, torch.device("cuda")
    config = replace(fresh_card(golden("qwen3_causal_last")).config, heads=16, kv_heads=8)
    query, key, value = (
        torch.randn(length, heads, config.head_dim, device=device, dtype=dtype)
        for heads in (16, 8, 8)
    )
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with make_lane(device).placed():
        attention = GroupedAttention(config, group_equal_lengths([0, length]), None)
        rows = attention(query, key, value, None)
    assert torch.isfinite(rows).all()
    assert torch.cuda.max_memory_allocated() - before < 2 * 2**30


def test_the_same_batches_give_the_same_bits_twice(
    golden: Golden, compute: Callable[..., list[Any]], sentences: Make
) -> None:
    engine = open_engine(golden("bert_mean"), device="cuda")
    texts = sentences(200, 120)
    np.testing.assert_array_equal(compute(engine, texts), compute(engine, texts))
