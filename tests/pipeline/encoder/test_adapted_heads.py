"""An adapter on the layer that gives the result: the values of the layer with W + scale · B·A."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS
from fixtures_encoder import open_engine
from safetensors.torch import load_file, save_file
from tiny_rerankers import (
    QWEN3_TEMPLATE,
    TEXTS,
    save_decoder,
    save_modules,
    scores_by_us,
    token,
)
from torch import Tensor

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.packing import gather

WriteAdapter = Callable[..., dict[str, Tensor]]

TOLERANCE = 2e-5
MULTI, SPARSE = (GOLDENS.parent / f"{kind}_goldens" for kind in ("multi", "sparse"))
DECODER = "cls.predictions.decoder"
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
IDS = [[2, *range(start, start + 9), 3] for start in (10, 60, 200, 350)]


def put(file: Path, name: str, tensor: Tensor) -> None:
    save_file({**load_file(file), name: tensor.contiguous()}, file, {"format": "pt"})


def reranker(folder: Path, *, tied: bool) -> Path:
    save_decoder(folder, template=QWEN3_TEMPLATE, tie_word_embeddings=tied)
    score: dict[str, int | None] = {
        "true_token_id": token("yes"),
        "false_token_id": token("no"),
    }
    return save_modules(folder, score=score)


@pytest.mark.parametrize("tied", [False, True], ids=["a matrix of its own", "the embeddings"])
def test_scores_of_a_language_model_are_those_of_its_adapted_head(
    tied: bool, tmp_path: Path, write_adapter: WriteAdapter
) -> None:
    folder = reranker(tmp_path / "model", tied=tied)
    merged = shutil.copytree(folder, tmp_path / "merged")
    base = scores_by_us(folder, TEXTS, tmp_path)
    added = write_adapter(folder, {"lm_head": (512, 32)})["lm_head"]
    weights = load_file(merged / "model.safetensors")
    published = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    put(merged / "model.safetensors", "lm_head.weight", published + added)
    expected = scores_by_us(merged, TEXTS, tmp_path)
    assert np.abs(expected - base).max() > 1e-3
    scores = scores_by_us(folder, TEXTS, tmp_path)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def values(folder: Path, kind: str, cache: Path) -> Any:
    """The lists of vectors of some texts, one value after another."""
    engine = open_engine(resolve(str(folder), cache_dir=cache), vectors=(kind,))
    offsets = np.cumsum([0, *map(len, IDS)])
    flat = np.array([token for ids in IDS for token in ids], dtype=np.int32)
    [(_, outputs)] = engine.run_all([gather(flat, offsets, np.arange(len(IDS)))])
    return outputs.lists[kind].values


@pytest.mark.parametrize(
    ("golden", "kind", "file", "name", "module"),
    [
        (MULTI / "colbert_v2", "multi", "model", "linear.weight", "linear"),
        (MULTI / "bge_m3", "multi", "colbert_linear", "weight", "colbert_linear"),
        (SPARSE / "bge_m3", "sparse", "sparse_linear", "weight", "sparse_linear"),
    ],
    ids=["ColBERT", "bge-m3's vectors", "bge-m3's weights"],
)
def test_vectors_are_those_of_the_adapted_layer(
    golden: Path,
    kind: str,
    file: str,
    name: str,
    module: str,
    tmp_path: Path,
    cache: Path,
    write_adapter: WriteAdapter,
) -> None:
    folder = shutil.copytree(golden, tmp_path / "model")
    merged = shutil.copytree(golden, tmp_path / "merged")
    published = load_file(golden / f"{file}.safetensors")[name]
    added = write_adapter(folder, {module: tuple(published.shape)})[module]
    put(merged / f"{file}.safetensors", name, published + added)
    expected = values(merged, kind, cache)
    base = values(golden, kind, cache)
    assert base.shape != expected.shape or np.abs(base - expected).max() > 1e-3
    found = values(folder, kind, cache)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def untied(folder: Path, **replaced: Tensor) -> None:
    """Give a SPLADE whose decoder is the embeddings one of its own, and replace either."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    embeddings = weights[EMBEDDINGS]
    put(file, f"{DECODER}.weight", replaced.get("decoder", embeddings))
    put(file, f"{DECODER}.bias", weights["cls.predictions.bias"])
    put(file, EMBEDDINGS, replaced.get("embeddings", embeddings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


@pytest.mark.parametrize("adapted", ["decoder", "embeddings"])
@pytest.mark.parametrize("golden", ["splade_bert", "splade_bare"])
def test_what_is_added_to_the_decoder_of_terms_is_not_added_to_the_embeddings_that_it_is(
    golden: str, adapted: str, tmp_path: Path, cache: Path, write_adapter: WriteAdapter
) -> None:
    folder = shutil.copytree(SPARSE / golden, tmp_path / "model")
    merged = shutil.copytree(SPARSE / golden, tmp_path / "merged")
    published = load_file(folder / "model.safetensors")[EMBEDDINGS]
    module = DECODER if adapted == "decoder" else EMBEDDINGS.removesuffix(".weight")
    added = write_adapter(folder, {module: (400, 32)}, embedding=adapted == "embeddings")[module]
    untied(merged, **{adapted: published + added})
    expected = values(merged, "sparse", cache)
    base = values(SPARSE / golden, "sparse", cache)
    assert base.shape != expected.shape or np.abs(base - expected).max() > 1e-3
    found = values(folder, "sparse", cache)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
