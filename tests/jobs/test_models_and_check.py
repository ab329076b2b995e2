"""What a model resolves to, and how exact a precision is, before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import ROOT, TINY, Bei

from pipeline.encoder.known import KNOWN


def golden(name: str) -> str:
    return str(ROOT / "tests" / "goldens" / name)


def test_without_a_model_the_known_checkpoints_are_listed(bei: Bei) -> None:
    told = bei("models")

    assert told.code == 0
    assert all(known.name in told.out for known in KNOWN)
    listed = bei("models", "--json").json["models"]
    assert [model["name"] for model in listed] == [known.name for known in KNOWN]


def test_a_model_is_resolved_without_loading_it(bei: Bei) -> None:
    facts = bei("models", golden("embeddinggemma"), "--json").json

    assert facts["family"] == "gemma3"
    assert facts["pooling"] == ["mean"]
    assert set(facts["prompts"]) == {"query", "document"}
    assert facts["tensors"] > 0
    assert "query" in bei("models", golden("embeddinggemma")).out


@pytest.mark.parametrize(
    ("name", "task"),
    [("bge_reranker_xlmr", "rerank"), ("go_emotions_roberta", "classify"), ("ner_bert", "tag")],
)
def test_the_task_is_what_the_model_can_do(bei: Bei, name: str, task: str) -> None:
    assert bei("models", golden(name), "--json").json["task"] == task


def test_a_model_that_is_not_there_is_an_error_with_a_next_step(bei: Bei) -> None:
    told = bei("models", "/no/such/model")

    assert told.code == 1
    assert "/no/such/model" in told.screen[0]
    assert "→" in told.screen[1]


@pytest.mark.parametrize("name", ["bert_mean", "bge_reranker_xlmr", "langid_xlmr", "ner_roberta"])
def test_every_task_can_be_checked(bei: Bei, name: str) -> None:
    told = bei("check", golden(name), "--rows", 5, "--precision", "float32", "--json").json

    assert told["largest_difference"] == 0
    assert told["not_finite"] == 0


def test_a_lower_precision_strays_and_the_distribution_says_how_far(bei: Bei) -> None:
    told = bei("check", TINY, "--rows", 20, "--precision", "bfloat16", "--json").json

    assert told["precision"] == "bfloat16"
    assert 0.99 < told["cosine"]["min"] <= told["cosine"]["median"] < 1
    assert told["largest_difference"] > 0


def test_a_sample_of_ones_own_may_be_any_input(bei: Bei, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("body\nfirst text\nsecond text\n")

    told = bei("check", TINY, "--sample", tmp_path / "mine.csv", "--text-column", "body", "--json")

    assert told.json["rows"] == 2


def test_a_sample_without_a_text_is_named(bei: Bei, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("text\n")

    told = bei("check", TINY, "--sample", tmp_path / "none.csv")

    assert told.code == 1
    assert "none.csv" in told.screen[0]
