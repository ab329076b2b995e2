"""Rerank by late interaction: what is read of a row, and the scores that come of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpora import GOLDENS
from task_rows import table

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.outputs import Outputs
from pipeline.planning.make_spec import sample_spec
from pipeline.tasks import Task, make_task
from pipeline.tokenize import queries_and_documents

MULTI = GOLDENS.parent / "multi_goldens"
NAMES = tuple(sorted(path.name for path in MULTI.iterdir() if path.is_dir()))
COLBERT = "colbert_v2"
FOX = "the quick brown fox jumps over the lazy dog "
# What bfloat16 may differ by, of a sum over up to 20 tokens; it does by 0.094.
OF_BFLOAT16 = 0.15

Open = Callable[..., tuple[Task, Engine]]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A task of a golden with options of its spec, and an engine for it."""
    folder = tmp_path_factory.mktemp("cache")

    @cache
    def card_of(name: str) -> ModelCard:
        return open_card(str(MULTI / name), cache_dir=folder)

    @cache
    def engine_of(name: str, precision: str) -> Engine:
        return Engine(card_of(name), HeadOptions(vectors=("multi",)), precision=precision)

    def opened(name: str, precision: str = "float32", **options: Any) -> tuple[Task, Engine]:
        card = card_of(name)
        spec = sample_spec(card, "rerank", precision="float32", max_length=None)
        spec = dataclasses.replace(spec, **options)
        return make_task(spec, card, load_tokenizer(card)), engine_of(name, precision)

    return opened


def results(task: Task, engine: Engine, rows: pa.RecordBatch, budget: int = 400) -> list[Row]:
    """The result columns, each row with its error, its tokens and what was cut."""
    tokens = task.tokenize(rows)
    scores = np.full((len(tokens.lengths), 1), np.nan, dtype=np.float32)
    scorer = task.scorer(tokens)
    assert scorer is not None
    for batch, outputs in engine.run_all(map(tokens.batch, tokens.packed(budget))):
        scores[batch.sequences] = scorer(batch, outputs).rows
    failed = np.zeros(tokens.rows, dtype=np.bool_)
    failed[[*tokens.errors]] = True
    arrays = task.all_columns(rows, tokens, Outputs(scores), failed)
    made = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(task.fields()))
    made.validate(full=True)
    assert tokens.cut is not None
    return [
        row | {"error": tokens.errors.get(i), "n_tokens": int(tokens.n_tokens[i]),
               "cut": int(tokens.cut[i]), "truncated": bool(tokens.truncated[i])}
        for i, row in enumerate(made.to_pylist())
    ]  # fmt: skip


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MULTI / name / "cases.json").read_text())["rerank"]
    return content


def golden_rows(name: str) -> pa.RecordBatch:
    return table(query=golden(name)["queries"], documents=golden(name)["documents"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_authors_code(name: str, precision: str, opened: Open) -> None:
    found = results(*opened(name, precision), golden_rows(name))
    bound = 1e-4 if precision == "float32" else OF_BFLOAT16
    for row, expected in zip(found, golden(name)["scores"], strict=True):
        np.testing.assert_allclose(row["scores"], expected, rtol=0, atol=bound)
        assert row["ranking"] == np.argsort(-np.array(row["scores"]), kind="stable").tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_scores_alone_and_in_company(
    name: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = golden_rows(name)
    together = results(*opened(name), rows)
    alone = [results(*opened(name), rows.slice(i, 1), budget=1)[0] for i in range(len(rows))]
    monkeypatch.setattr(queries_and_documents, "_STAGE_TOKENS", 1)
    apart = results(*opened(name), rows, budget=1)
    for one, another, third in zip(together, alone, apart, strict=True):
        np.testing.assert_allclose(one["scores"], another["scores"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(one["scores"], third["scores"], rtol=0, atol=1e-5)
        for key in ("n_tokens", "cut", "truncated", "error"):
            assert one[key] == another[key] == third[key]


def test_documents_among_masked_queries_have_no_mask_of_attention(opened: Open) -> None:
    task, _ = opened(COLBERT)
    tokens = task.tokenize(golden_rows(COLBERT))
    assert tokens.interaction is not None
    is_document = tokens.interaction.document >= 0
    masks = [tokens.batch(np.flatnonzero(some)).masks for some in (is_document, ~is_document)]
    of_documents, of_queries = (mask.attention for mask in masks if mask is not None)
    assert of_queries is not None
    assert not of_queries.all()
    assert of_documents is None  # so that a GPU uses its variable-length kernel


def test_an_equal_query_is_computed_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    task, engine = opened(COLBERT)
    rows = table(query=["a fox", "dog", "a fox"], documents=[["x"], ["y", "z"], [FOX]])
    tokens = task.tokenize(rows)
    assert tokens.row_of.tolist() == [0, 0, 1, 1, 1, 2]
    assert tokens.interaction is not None
    assert tokens.interaction.query_of.tolist() == [0, 0, 2, 2, 2, 0]
    # Each row reads its query all the same: what it is told of itself does not hang on the others.
    assert [len(tokens.lengths[tokens.row_of == row]) for row in range(3)] == [2, 3, 1]
    documents = tokens.interaction.document >= 0
    own = np.bincount(tokens.row_of[documents], weights=tokens.lengths[documents])
    assert tokens.n_tokens.tolist() == (own + 16).tolist()
    alone = [results(task, engine, rows.slice(i, 1))[0] for i in range(3)]
    assert results(task, engine, rows) == alone
    monkeypatch.setattr(queries_and_documents, "_STAGE_TOKENS", 20)
    parted = task.tokenize(rows)
    assert parted.row_of.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert parted.interaction is not None
    assert parted.interaction.stage.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_broken_rows_say_what_is_broken_and_affect_no_other(opened: Open) -> None:
    rows = table(
        query=["a", None, "a", "a", "b", "a"],
        documents=[["x", None], ["x"], None, [], ["x"], [""]],
    )
    found = results(*opened(COLBERT), rows)
    assert [row["error"] for row in found] == [
        "documents[1] is null", "the query is null", "documents is null", None, None, None,
    ]  # fmt: skip
    assert [row["scores"] is None for row in found] == [True, True, True, False, False, False]
    assert found[3] == {
        "scores": [], "ranking": [], "error": None, "n_tokens": 0, "cut": 0, "truncated": False,
    }  # fmt: skip
    assert len(found[5]["scores"]) == 1  # of the document's special tokens, as the authors' code


def test_one_pair_per_row_has_one_score(opened: Open) -> None:
    rows = table(query=["dog", "dog", "x"], document=[FOX, None, "go"])
    found = results(*opened(COLBERT, document_column="document"), rows)
    assert found[0]["score"] == pytest.approx(
        results(*opened(COLBERT), table(query=["dog"], documents=[[FOX]]))[0]["scores"][0]
    )
    assert found[1]["score"] is None
    assert found[1]["error"] == "the document is null"


def test_what_is_cut_of_both_texts_is_counted(opened: Open) -> None:
    rows = table(query=[FOX * 3, "dog"], documents=[["x"], [FOX * 9, "x"]])
    long_query, long_document = results(*opened(COLBERT), rows)
    assert long_query["truncated"]
    assert long_document["truncated"]
    assert long_query["cut"] > 0
    assert long_document["cut"] > 0
    refused = results(*opened(COLBERT, truncate="error"), rows)
    assert "the query has" in refused[0]["error"]
    assert "more than --max-length 16" in refused[0]["error"]
    assert "documents[0] has" in refused[1]["error"]


def test_pool_reads_all_of_a_document_and_takes_its_best_chunk(opened: Open) -> None:
    sentences = [
        "A quick brown fox jumps over the lazy dog of a friend.",
        "Drivers read and write, again and again, and again.",
        "High-level functions scan for motifs of DNA and analyse them.",
    ]
    pool = {"chunking": "pool", "chunk_tokens": 40, "chunk_overlap": 0}
    for query in ("dog", "motifs of DNA", "read/write again"):
        whole = table(query=[query], documents=[[" ".join(sentences), "x"]])
        tokens = opened(COLBERT, **pool)[0].tokenize(whole)
        assert tokens.interaction is not None
        assert tokens.interaction.document.tolist() == [-1, 0, 0, 0, 1]
        (each,) = results(*opened(COLBERT), table(query=[query], documents=[sentences]))
        (cut,) = results(*opened(COLBERT), whole)
        (pooled,) = results(*opened(COLBERT, **pool), whole)
        assert pooled["scores"][0] == pytest.approx(max(each["scores"]), abs=1e-5)
        assert pooled["scores"][1] == pytest.approx(cut["scores"][1], abs=1e-5)
        assert cut["cut"] > pooled["cut"] == 0


def test_a_token_without_a_vector_on_either_side_is_an_error_of_its_row(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, engine = opened(COLBERT)
    nothing = ("[CLS]", "[unused1]", "[SEP]", "?")
    card = engine.card
    assert card.multi is not None
    document = dataclasses.replace(card.multi.document, skipped=nothing)
    multi = dataclasses.replace(card.multi, document=document)
    skipping = dataclasses.replace(card, multi=multi)
    spec = sample_spec(skipping, "rerank", precision="float32", max_length=None)
    task = make_task(spec, skipping, load_tokenizer(card))
    found = results(task, engine, table(query=["a", "a"], documents=[["x", "?"], ["x"]]))
    reason = "documents[1] has no token with a vector for this model"
    assert [row["error"] for row in found] == [reason, None]
