"""A forward pass with every fused kernel, in Triton's interpreter, against the one without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS
from fixtures_encoder import open_engine
from fixtures_gpu import HalfLinear

from pipeline.choice import Choices
from pipeline.encoder import engine as engine_module
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.engine import Engine
from pipeline.encoder.model import encoder
from pipeline.encoder.model.fused_kernels import FUSED
from pipeline.packing import Batch, gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())
# As far as a golden may be from its reference, in units of the largest value.
TOLERANCE = 2e-4
# Least cosine of random weights: few roundings go the other way.
LEAST = {"float16": 0.99999, "bfloat16": 0.9998}

Golden = Callable[[str], Checkpoint]


def _batch(*lengths: int) -> Batch:
    rng = np.random.default_rng(7)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(5, 400, offsets[-1]).astype(np.int32)
    kinds = rng.integers(0, 2, offsets[-1]).astype(np.int8)
    return gather(ids, offsets, np.arange(len(lengths)), kinds)


def _rows(engine: Engine) -> Any:
    ((_, rows),) = engine.run([_batch(9, 9, 0, 21, 4)])
    return rows.reshape(rows.shape[0], -1).copy()


def _fused(engine: Engine) -> Engine:
    _give(engine.forward, engine.head)
    return engine


def _give(forward: Any, head: Any) -> Choices:
    forward.kernels = FUSED
    head.pooled = FUSED.pooled
    return {}


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_its_rows(name: str, golden: Golden) -> None:
    checkpoint = golden(name)
    expected = _rows(open_engine(checkpoint, precision="float32"))
    found = _rows(_fused(open_engine(checkpoint, precision="float32")))
    scale = max(1.0, float(np.nanmax(np.abs(expected))))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("precision", sorted(LEAST))
@pytest.mark.parametrize(
    "name",
    ["bert_mean", "modernbert_cls", "gte_qwen2", "nomic_old_config", "qwen3_causal_last",
     "nemotron_llama", "embeddinggemma"],
)  # fmt: skip
def test_and_in_16_bits(
    name: str, precision: str, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU's product: it is rounded before the residual is added, and oneDNN's is not.
    monkeypatch.setattr(encoder, "make_linear", lambda weight, bias, **_: HalfLinear(weight, bias))
    if name == "embeddinggemma" and precision == "float16":
        pytest.skip("overflows in float16, and is refused")
    checkpoint = golden(name)
    expected = _rows(open_engine(checkpoint, precision=precision))
    found = _rows(_fused(open_engine(checkpoint, precision=precision)))
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert np.nanmin((found * expected).sum(axis=1) / norms) >= LEAST[precision]


@pytest.mark.parametrize("name", ["bert_mean"])
@pytest.mark.usefixtures("gpu")
def test_and_in_a_graph_of_a_fixed_shape(
    name: str, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [_batch(40, 31, 17), _batch(33, 40, 20)]
    engines = []
    for choose in (lambda *_: {}, _give):
        monkeypatch.setattr(engine_module, "choose_fused", choose)
        engines.append(open_engine(golden(name), precision="bfloat16"))
    expected, found = ([rows for _, rows in engine.run(work)] for engine in engines)
    assert len(engines[1].graphs.captured) == 1
    for rows, plain in zip(found, expected, strict=True):
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(plain, axis=1)
        assert ((rows * plain).sum(axis=1) / norms).min() >= LEAST["bfloat16"]
