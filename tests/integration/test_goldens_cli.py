"""Every published layout through the command line, in float32, against an independent reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS

VECTORS = 2e-4
LOGITS = 1e-3
STRATEGIES = ("simple", "first", "average", "max")

Case = dict[str, Any]


@pytest.fixture(autouse=True)
def own_machine(own_machine: None) -> None:
    """For every test here."""


class Golden:
    """One tiny checkpoint and the ways to run its cases."""

    def __init__(self, name: str, bei: Bei, folder: Path) -> None:
        self.name = name
        self._bei = bei
        self._folder = folder
        self._runs = 0

    def rows(self, case: Case, columns: dict[str, Any], *options: object) -> list[dict[str, Any]]:
        """The rows that `bei-jobs submit` computes from `columns`."""
        self._runs += 1
        corpus = self._folder / f"corpus{self._runs}.parquet"
        output = self._folder / f"output{self._runs}"
        pq.write_table(pa.table(columns), corpus)
        done = self._bei(
            "submit", corpus, "--output", output, "--model", GOLDENS / self.name,
            "--task", case["task"], "--precision", "float32", "--device", "cpu",
            "--max-length", content(self.name)["max_length"], "--max-failed-rows", "100%",
            *options,
        )  # fmt: skip
        assert done.code in (0, 3), done.err
        assert self._bei("verify", output).code == 0
        rows: list[dict[str, Any]] = read_output(self._bei, output).to_pylist()
        return rows


@pytest.fixture
def golden(bei: Bei, tmp_path: Path, request: pytest.FixtureRequest) -> Golden:
    return Golden(request.getfixturevalue("name"), bei, tmp_path)


def content(name: str) -> dict[str, Any]:
    file: dict[str, Any] = json.loads((GOLDENS / name / "cases.json").read_text())
    return file


def cases(task: str) -> Any:
    """Parametrize over the checkpoints that have cases of a task."""
    names = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
    return pytest.mark.parametrize(
        "name", [name for name in names if content(name)["cases"][0]["task"] == task]
    )


def close(computed: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(computed, expected, rtol=0, atol=tolerance)


def test_there_are_24_layouts_and_every_case_is_run() -> None:
    files = [content(path.name) for path in GOLDENS.iterdir() if path.is_dir()]
    tasks = [{case["task"] for case in file["cases"]} for file in files]
    assert len(tasks) == 24
    assert all(len(names) == 1 for names in tasks)


@cases("embed")
def test_embeddings_are_those_of_the_reference(golden: Golden, name: str) -> None:
    for case in content(name)["cases"]:
        prompt = ("--prompt-name", case["prompt_name"]) if case["prompt_name"] else ()
        rows = golden.rows(case, {"text": case["texts"]}, *prompt)
        for row, expected in zip(rows, case["expected"], strict=True):
            if expected is None:  # a text without a token
                assert row["embedding"] is None
                assert "no token" in row["error"]
            else:
                close(row["embedding"], expected, VECTORS)


@cases("rerank")
def test_logits_scores_and_rankings_are_those_of_the_reference(golden: Golden, name: str) -> None:
    cases_of_name = content(name)["cases"]
    columns = {
        "query": [c["query"] for c in cases_of_name],
        "documents": [c["documents"] for c in cases_of_name],
    }
    scores = golden.rows(cases_of_name[0], columns)
    logits = golden.rows(cases_of_name[0], columns, "--raw-scores")
    for case, score, logit in zip(cases_of_name, scores, logits, strict=True):
        close(score["scores"], case["expected_scores"], LOGITS)
        close(logit["scores"], case["expected_logits"], LOGITS)
        best_first = np.argsort(-np.array(case["expected_logits"]), kind="stable").tolist()
        assert score["ranking"] == logit["ranking"] == best_first


@cases("rerank")
def test_one_pair_per_row_gives_the_same_logits(golden: Golden, name: str) -> None:
    cases_of_name = content(name)["cases"]
    pairs = [(c["query"], document) for c in cases_of_name for document in c["documents"]]
    expected = [logit for case in cases_of_name for logit in case["expected_logits"]]
    columns = {"query": [q for q, _ in pairs], "document": [d for _, d in pairs]}
    rows = golden.rows(cases_of_name[0], columns, "--document-column", "document", "--raw-scores")
    close([row["score"] for row in rows], expected, LOGITS)


@cases("classify")
def test_labels_and_scores_are_those_of_the_reference(golden: Golden, name: str) -> None:
    for case in content(name)["cases"]:
        columns, every = {"text": case["texts"]}, ("--top-k", len(case["labels"]))
        for rows, expected in (
            (golden.rows(case, columns, *every), case["expected_scores"]),
            (golden.rows(case, columns, *every, "--raw-scores"), case["expected_logits"]),
        ):
            for row, values in zip(rows, expected, strict=True):
                assert row["scores"] == sorted(row["scores"], reverse=True)
                by_label = dict(zip(row["labels"], row["scores"], strict=True))
                close([by_label[label] for label in case["labels"]], values, LOGITS)


@cases("classify")
def test_one_label_per_row_by_default_or_all_of_a_multi_label_model(
    golden: Golden, name: str
) -> None:
    for case in content(name)["cases"]:
        rows = golden.rows(case, {"text": case["texts"]})
        kept = len(case["labels"]) if case["multi_label"] else 1
        for row, values in zip(rows, case["expected_scores"], strict=True):
            assert len(row["labels"]) == len(row["scores"]) == kept
            assert row["labels"][0] == case["labels"][int(np.argmax(values))]


@cases("tag")
def test_tokens_and_their_logits_are_those_of_the_reference(golden: Golden, name: str) -> None:
    for case in content(name)["cases"]:
        options = ("--aggregation", "none", "--raw-scores")
        rows = golden.rows(case, {"text": case["texts"]}, *options)
        for row, expected in zip(rows, case["expected"], strict=True):
            for computed, token in zip(row["tokens"], expected["tokens"], strict=True):
                best = int(np.argmax(token["logits"]))
                assert {key: computed[key] for key in ("token_id", "start", "end", "label")} == {
                    "token_id": token["token_id"],
                    "start": token["start"],
                    "end": token["end"],
                    "label": case["labels"][best],
                }
                close(computed["score"], token["logits"][best], LOGITS)
                close(computed["scores"], token["logits"], LOGITS)


@cases("tag")
def test_tokens_with_an_entity_are_those_of_the_reference(golden: Golden, name: str) -> None:
    for case in content(name)["cases"]:
        rows = golden.rows(case, {"text": case["texts"]}, "--aggregation", "none")
        for row, expected in zip(rows, case["expected"], strict=True):
            best = [(token, int(np.argmax(token["logits"]))) for token in expected["tokens"]]
            labelled = [(token, i) for token, i in best if case["labels"][i] != "O"]
            for computed, (token, label) in zip(row["tokens"], labelled, strict=True):
                assert computed.keys() == {"token", "token_id", "start", "end", "label", "score"}
                assert computed["token_id"] == token["token_id"]
                assert computed["label"] == case["labels"][label]
                powers = np.exp(np.array(token["logits"]) - max(token["logits"]))
                close(computed["score"], (powers / powers.sum())[label], LOGITS)


@cases("tag")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_the_reference(golden: Golden, name: str, strategy: str) -> None:
    for case in content(name)["cases"]:
        rows = golden.rows(case, {"text": case["texts"]}, "--aggregation", strategy)
        for row, text, expected in zip(rows, case["texts"], case["expected"], strict=True):
            entities = expected["entities"][strategy]
            assert [_place(entity) for entity in row["entities"]] == [
                _place(entity) for entity in entities
            ]
            close(
                [e["score"] for e in row["entities"]],
                [entity["score"] for entity in entities],
                LOGITS,
            )
            for entity in row["entities"]:
                assert entity["text"] == text[entity["start"] : entity["end"]]


def _place(entity: dict[str, Any]) -> tuple[str, int, int]:
    return entity["entity"], entity["start"], entity["end"]
