"""What a model resolves to and how exact a precision is, before a job is submitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
from commandline import Bei
from corpora import ROOT, TINY

from pipeline.encoder.architecture.tested_models import TESTED_MODELS
from pipeline.encoder.checkpoint.checkpoint import Checkpoint


def golden(name: str) -> str:
    return str(ROOT / "tests" / "goldens" / name)


def test_without_a_model_the_known_checkpoints_are_listed(bei: Bei) -> None:
    outcome = bei("models")

    assert outcome.code == 0
    assert all(known.name in outcome.out for known in TESTED_MODELS)
    listed = bei("models", "--json").json["models"]
    assert [model["name"] for model in listed] == [known.name for known in TESTED_MODELS]


def test_a_model_is_resolved_without_loading_it(bei: Bei) -> None:
    facts = bei("models", golden("embeddinggemma"), "--json").json

    assert facts["family"] == "gemma3"
    assert facts["pooling"] == ["mean"]
    assert set(facts["prompts"]) == {"query", "document"}
    assert facts["tensors"] > 0
    assert "query" in bei("models", golden("embeddinggemma")).out


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "embeddinggemma",
            [
                "layers 6", "hidden size 32", "heads 4, 2 for keys", "attention bidirectional",
                "window 16 tokens on either side in 4 of 6 layers",
                "positions rotary of base 10,000 and rotary of base 1,000,000",
                "after pooling Dense, Dense, Normalize", "tensors 80 matched, 0 unused",
            ],
        ),
        ("bert_mean", ["heads 4", "positions learned, 256", "after pooling Normalize"]),
        ("mpnet_cls_dot", ["positions learned, 258 and relative bias of 32 buckets",
                           "after pooling nothing"]),
        ("jina_en", ["positions ALiBi"]),
        ("qwen3_causal_last", ["attention causal"]),
        ("ner_bert", ["tensors 55 matched, 2 unused"]),
    ],
)  # fmt: skip
def test_a_model_is_described_in_words(bei: Bei, name: str, lines: list[str]) -> None:
    printed = bei("models", golden(name)).out.splitlines()

    assert set(lines) <= {" ".join(line.split()) for line in printed}


@pytest.mark.parametrize(
    ("layout", "lines"),
    [
        (layouts.nomic_moe, ["experts 2 of 8 per token in 2 of 4 layers", "family nomic_bert_moe"]),
        (layouts.model2vec, ["table 400 tokens of 64 values", "family static",
                             "after pooling Normalize", "tensors 1"]),
        (layouts.mistral, ["attention causal", "window 31 tokens back in 3 of 3 layers"]),
    ],
)  # fmt: skip
def test_experts_tables_and_windows_are_described_in_words(
    bei: Bei, tmp_path: Path, layout: Callable[[Path], Path], lines: list[str]
) -> None:
    printed = bei("models", layout(tmp_path / "model")).out.splitlines()

    assert set(lines) <= {" ".join(line.split()) for line in printed}


def test_a_model_that_transformers_computes_is_described_as_far_as_it_is_known(
    bei: Bei, bent: Callable[..., Checkpoint]
) -> None:
    outcome = bei("models", bent("bert_mean", model_type="distilbert").path).out

    assert "layers" in outcome
    assert "attention" not in outcome


def test_the_description_in_words_is_no_part_of_a_jobs_identity(bei: Bei) -> None:
    facts = bei("models", golden("bert_mean"), "--json").json

    assert not {"layers", "heads", "attention", "positions"} & set(facts)


@pytest.mark.parametrize(
    ("name", "task"),
    [("bge_reranker_xlmr", "rerank"), ("go_emotions_roberta", "classify"), ("ner_bert", "tag")],
)
def test_the_task_is_what_the_model_can_do(bei: Bei, name: str, task: str) -> None:
    assert bei("models", golden(name), "--json").json["task"] == task


def test_a_model_that_does_not_exist_is_an_error_with_a_next_step(bei: Bei) -> None:
    outcome = bei("models", "/no/such/model")

    assert outcome.code == 1
    assert "/no/such/model" in outcome.screen[0]
    assert "→" in outcome.screen[1]


@pytest.mark.parametrize("name", ["bert_mean", "bge_reranker_xlmr", "langid_xlmr", "ner_roberta"])
def test_every_task_can_be_checked(bei: Bei, name: str) -> None:
    outcome = bei("check", golden(name), "--rows", 5, "--precision", "float32", "--json").json

    assert outcome["largest_difference"] == 0
    assert outcome["not_finite"] == 0


def test_a_lower_precision_differs_and_the_distribution_shows_by_how_much(bei: Bei) -> None:
    outcome = bei("check", TINY, "--rows", 20, "--precision", "bfloat16", "--json").json

    assert outcome["precision"] == "bfloat16"
    assert 0.99 < outcome["cosine"]["min"] <= outcome["cosine"]["median"] < 1
    assert outcome["largest_difference"] > 0


def test_a_reranker_has_a_distribution_of_differences_in_place_of_cosines(bei: Bei) -> None:
    words = ("check", golden("bge_reranker_xlmr"), "--rows", 20, "--precision", "bfloat16")
    outcome, shown = bei(*words, "--json").json, bei(*words).out

    assert (outcome["width"], outcome["cosine"]) == (1, {})
    assert 0 < outcome["difference"]["median"] <= outcome["difference"]["p99"]
    assert outcome["difference"]["max"] == outcome["largest_difference"]
    assert "one logit each" in shown
    assert all(f"difference {name}" in shown for name in ("median", "p99", "max"))
    assert "cosine min" not in shown


def test_a_users_own_sample_may_be_any_input(bei: Bei, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("body\nfirst text\nsecond text\n")

    outcome = bei(
        "check", TINY, "--sample", tmp_path / "sample.csv", "--text-column", "body", "--json"
    )

    assert outcome.json["rows"] == 2


def test_a_sample_without_a_text_is_named(bei: Bei, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("text\n")

    outcome = bei("check", TINY, "--sample", tmp_path / "none.csv")

    assert outcome.code == 1
    assert "none.csv" in outcome.screen[0]


def test_a_model_that_is_fetched_says_so_once(bei: Bei, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "gztar", golden("bert_mean")))

    first, second = bei("models", archive, "--json"), bei("models", archive, "--json")

    assert first.err == f"fetching         the model from {archive} …\n"
    assert second.err == ""
    assert first.json == second.json
