"""Whatever is chosen for the user is said once, with its reason, in the terminal and in --json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commandline import Bei
from corpora import GOLDENS, TINY, write_parquet

from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL

# What `submit` chooses for this corpus by default.
CHOSEN = {
    "output", "id-column", "text-column", "max-length", "normalize", "rows-per-shard",
    "device", "precision", "token-budget",
}  # fmt: skip
GIVEN = (
    "--id-column", "id", "--max-length", 32, "--device", "cpu", "--precision", "float32",
    "--token-budget", 500, "--no-normalize", "--rows-per-shard", 100,
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 8)


def lines(stderr: str) -> dict[str, str]:
    """Option → value and reason, of the lines that name a choice."""
    found = re.findall(r"^([a-z-]+) +(\S.*: .*)$", stderr, re.MULTILINE)
    assert len({name for name, _ in found}) == len(found), "a choice is said once"
    return dict(found)


def test_submit_prints_one_line_per_choice_and_the_same_in_json(bei: Bei, corpus: Path) -> None:
    done = bei("submit", corpus, "--model", TINY, "--json")

    assert done.code == 0, done.err
    assert done.json["choices"].keys() == CHOSEN
    printed = lines(done.err)
    for name, choice in done.json["choices"].items():
        assert printed[name] == f"{choice['value']}: {choice['reason']}"
    assert done.json["choices"]["precision"]["value"] == "float32"
    assert done.json["choices"]["id-column"]["value"] == "id"
    assert done.json["choices"]["output"]["value"].endswith("corpus.embed")


def test_what_was_asked_for_is_no_choice(bei: Bei, corpus: Path, tmp_path: Path) -> None:
    renamed = write_parquet(tmp_path / "other.parquet", 8, body=["a text"] * 8)
    words = ("--output", tmp_path / "out", "--text-column", "body", *GIVEN)

    done = bei("submit", renamed, "--model", TINY, "--json", *words)

    assert done.code == 0, done.err
    assert done.json["choices"] == {}


def test_quiet_prints_no_choice_and_json_has_them_all_the_same(bei: Bei, corpus: Path) -> None:
    done = bei("submit", corpus, "--model", TINY, "--json", "--quiet")

    assert lines(done.err) == {}
    assert done.json["choices"].keys() == CHOSEN


def test_a_prompt_and_the_labels_per_row_are_choices(bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    words = ("submit", corpus, "--json", "--quiet")

    prompted = bei(*words, "--model", _with_default_prompt(tmp_path))
    labelled = bei(*words, "--model", GOLDENS / "go_emotions_roberta", "--task", "classify")

    assert prompted.json["choices"]["prompt"]["value"] == "query: "
    assert labelled.json["choices"]["top-k"]["value"] > 1
    assert "normalize" not in labelled.json["choices"]


def _with_default_prompt(folder: Path) -> Path:
    model = Path(shutil.copytree(TINY, folder / "prompted"))
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return model


def test_the_columns_of_a_pair_are_choices(bei: Bei, tmp_path: Path) -> None:
    pairs = write_parquet(
        tmp_path / "pairs.parquet", 2, query=["a", "b"], documents=[["x", "y"], ["z"]]
    )
    model = GOLDENS / "bge_reranker_xlmr"

    done = bei("submit", pairs, "--task", "rerank", "--model", model, "--json", "--quiet")

    assert done.json["choices"]["query-column"]["value"] == "query"
    assert done.json["choices"]["documents-column"]["value"] == "documents"
    assert "text-column" not in done.json["choices"]


def test_a_missing_id_column_is_a_choice_too(bei: Bei, tmp_path: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text('{"text": "no id here"}\n')

    done = bei("submit", corpus, "--model", TINY, "--json", "--quiet")

    assert done.json["choices"]["id-column"]["value"] == "none"
    assert "column named id" in done.json["choices"]["id-column"]["reason"]


def test_a_run_that_has_nothing_to_do_chooses_no_device(bei: Bei, corpus: Path) -> None:
    words = ("submit", corpus, "--model", TINY, "--json", "--quiet")
    bei(*words)

    again = bei(*words)

    assert again.json["choices"].keys() == CHOSEN - {"device", "precision", "token-budget"}


def test_a_job_for_a_fleet_says_that_its_workers_choose(
    bei: Bei, corpus: Path, redis_url: str
) -> None:
    done = bei("submit", corpus, "--model", TINY, "--broker", redis_url, "--json")

    assert done.code == 0, done.err
    precision = done.json["choices"]["precision"]
    assert precision["value"] == "auto"
    reason = "the first worker decides for all: float16 on a GPU, by a trial on a CPU"
    assert precision["reason"] == reason
    assert {"device", "token-budget"} <= lines(done.err).keys()


def test_models_says_what_a_job_would_be_given_here(bei: Bei) -> None:
    said = bei("models", TINY)
    told = bei("models", TINY, "--json").json["choices"]

    assert told.keys() == {"device", "precision", "token-budget"}
    for name, choice in told.items():
        assert f"{choice['value']}: {choice['reason']}" in said.out
        assert re.search(rf"^{name} ", said.out, re.MULTILINE)


def test_the_revision_of_a_model_from_the_hub_is_a_choice(bei: Bei) -> None:
    told = bei("models", DEFAULT_MODEL, "--json").json["choices"]["revision"]

    # Out of reach of the hub the packaged copy serves, which has no revision.
    assert told["reason"].startswith(("the main branch", "the published weights"))


def test_models_says_whether_int8_is_faster_here(bei: Bei, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.encoder.precision._LEAST_WIDTH", 1)  # the model is a tiny one
    for int8, said in ((2.5, "faster"), (1.5, "slower")):
        monkeypatch.setattr("pipeline.encoder.cpu_trials.int8_gain", lambda *_, g=int8: g)
        monkeypatch.setattr("pipeline.encoder.cpu_trials.bfloat16_gain", lambda *_: 1.9)

        choice = bei("models", TINY, "--json").json["choices"]["int8"]

        assert choice["value"] == said
        assert f"products {int8} times as fast" in choice["reason"]
