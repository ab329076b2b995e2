"""Vectors of tokens in each layout, as queries and as documents, beside those of the authors' code.

That an output has them so is in tests/jobs; here are all layouts and precisions.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.outputs import Lists, Outputs
from pipeline.packing import pack
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens
from pipeline.tokenize.vector_tokens import vector_tokens

MULTI = GOLDENS.parent / "multi_goldens"
NAMES = tuple(sorted(path.name for path in MULTI.iterdir() if path.is_dir()))
KINDS = ("query", "document")
# Of values of unit vectors; measured: 1e-6 and 0.06.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1}


@cache
def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MULTI / name / "cases.json").read_text())
    return content


def expected(name: str, kind: str) -> list[list[list[float]]]:
    cases = golden(name)["cases"]
    return next(case["expected"] for case in cases if case["options"] == ["--kind", kind])


@cache
def card_of(name: str, kind: str) -> ModelCard:
    return open_card(str(MULTI / name), kind=kind)


@cache
def engine_of(name: str, precision: str, *vectors: str) -> Engine:
    options = HeadOptions(vectors=vectors or ("multi",))  # type: ignore[arg-type]
    return Engine(card_of(name, "document"), options, precision=precision)


@cache
def tokens_of(name: str, kind: str) -> Tokens:
    card = card_of(name, kind)
    limit = card.default_max_length
    texts = TextTokenizer(load_tokenizer(card), limit, "right")
    tokens = texts.encode(golden(name)["texts"], card.modules.prompts.get(kind, ""))
    return vector_tokens(card, load_tokenizer(card), kind, limit)(tokens)


def computed(engine: Engine, tokens: Tokens, budget: int) -> list[tuple[Any, Outputs]]:
    batches = map(tokens.batch, pack(tokens.lengths, budget))
    return [(batch.sequences, outputs) for batch, outputs in engine.run_all(batches)]


def rows_of(name: str, kind: str, precision: str, budget: int) -> list[Any]:
    parts = computed(engine_of(name, precision), tokens_of(name, kind), budget)
    lists = [(places, outputs.lists["multi"]) for places, outputs in parts]
    joined = Lists.placed(len(golden(name)["texts"]), lists)
    return np.split(joined.values, np.cumsum(joined.counts)[:-1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_the_authors_code(name: str, kind: str, precision: str) -> None:
    found = rows_of(name, kind, precision, budget=400)
    for vectors, wanted in zip(found, expected(name, kind), strict=True):
        assert vectors.shape == np.shape(wanted)
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=TOLERANCES[precision])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_text_has_the_same_vectors_alone_and_in_company(name: str, kind: str) -> None:
    together, alone = (rows_of(name, kind, "float32", budget) for budget in (400, 1))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_one_pass_of_bge_m3_gives_three_kinds_of_vectors() -> None:
    name, count = "bge_m3", len(golden("bge_m3")["texts"])
    parts = computed(engine_of(name, "float32", "dense", "sparse", "multi"),
                     tokens_of(name, "document"), 400)  # fmt: skip
    dense = np.zeros_like(golden(name)["dense"], dtype=np.float32)
    for places, outputs in parts:
        dense[places] = outputs.rows
    np.testing.assert_allclose(dense, golden(name)["dense"], rtol=0, atol=1e-4)
    sparse, multi = (
        Lists.placed(count, [(places, outputs.lists[kind]) for places, outputs in parts])
        for kind in ("sparse", "multi")
    )
    weights = [(row["indices"], row["values"]) for row in golden(name)["sparse"]]
    assert sparse.ids.tolist() == [index for indices, _ in weights for index in indices]
    np.testing.assert_allclose(
        sparse.values, [value for _, values in weights for value in values], rtol=0, atol=1e-4
    )
    wanted = [vector for text in expected(name, "document") for vector in text]
    np.testing.assert_allclose(multi.values, wanted, rtol=0, atol=1e-4)


def test_each_golden_says_whose_values_it_holds() -> None:
    table = Path(MULTI / "README.md").read_text()
    for name in NAMES:
        library, _, version = golden(name)["reference"].partition(" ")
        assert version
        assert any(name in line and library in line for line in table.splitlines())
