"""Labels best first: one, or all where they do not exclude each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from task_rows import finish, table

from pipeline.tasks import Task

Make = Callable[..., Task]
LABELS = ("joy", "anger", "fear")
LOGITS = [[0.0, 2.0, 1.0], [3.0, -1.0, 3.0]]


def run(make: Make, logits: object = LOGITS, **options: object) -> list[dict[str, object]]:
    rows = table(text=["one", "two"])
    task = make("classify", labels=LABELS, **options)
    return finish(task, rows, task.tokenize(rows), logits)


def test_a_single_label_is_the_best_of_a_softmax(make: Make) -> None:
    first, second = run(make)
    assert first["labels"] == ["anger"]
    np.testing.assert_allclose(first["scores"], [0.66524096], rtol=1e-6)
    assert second["labels"] == ["joy"]  # of equal ones, the first


def test_labels_that_do_not_exclude_each_other_all_have_a_sigmoid(make: Make) -> None:
    first, _ = run(make, multi_label=True)
    assert first["labels"] == ["anger", "fear", "joy"]
    np.testing.assert_allclose(first["scores"], [0.8807971, 0.7310586, 0.5], rtol=1e-6)


@pytest.mark.parametrize("multi_label", [True, False])
def test_top_k_keeps_so_many_or_all_there_are(make: Make, multi_label: bool) -> None:
    assert run(make, multi_label=multi_label, top_k=2)[0]["labels"] == ["anger", "fear"]
    assert run(make, multi_label=multi_label, top_k=9)[0]["labels"] == ["anger", "fear", "joy"]


def test_raw_scores_are_logits(make: Make) -> None:
    assert run(make, raw_scores=True, top_k=3)[0]["scores"] == [2.0, 1.0, 0.0]


def test_values_of_a_regression_are_logits(make: Make) -> None:
    assert run(make, regression=True, top_k=3)[0]["scores"] == [2.0, 1.0, 0.0]
    rows = table(text=["one"])
    task = make("classify", labels=("rating",), regression=True)
    assert finish(task, rows, task.tokenize(rows), [[3.5]])[0]["scores"] == [3.5]


def test_scores_of_extreme_logits_are_finite(make: Make) -> None:
    for multi_label in (True, False):
        rows = run(make, [[1e4, -1e4, 0.0]] * 2, multi_label=multi_label, top_k=3)
        np.testing.assert_allclose(rows[0]["scores"], [1.0, 0.5 * multi_label, 0.0])


def test_a_model_with_one_label_has_a_sigmoid(make: Make) -> None:
    rows = table(text=["one"])
    task = make("classify", labels=("relevance",))
    (result,) = finish(task, rows, task.tokenize(rows), [[0.0]])
    assert result == {"labels": ["relevance"], "scores": [0.5]}


def test_a_text_without_a_character_is_classified_by_its_special_tokens(make: Make) -> None:
    tokens = make("classify").tokenize(table(text=[""]))
    assert tokens.errors == {}
    assert tokens.n_tokens.tolist() == [2]


def test_a_broken_row_is_null_and_the_others_keep_their_labels(make: Make) -> None:
    rows = table(text=["one", None, "three", "four"])
    task = make("classify", labels=LABELS)
    tokens = task.tokenize(rows)
    assert list(tokens.errors) == [1]
    logits = [[1.0, 0.0, 0.0], [np.nan] * 3, [0.0, 0.0, 1.0]]
    results = finish(task, rows, tokens, logits, failed=(2,))
    assert [row["labels"] for row in results] == [["joy"], None, None, ["fear"]]


def test_a_window_of_broken_rows_alone_is_null(make: Make) -> None:
    rows = table(text=[None, None])
    task = make("classify", labels=LABELS)
    # A block without a sequence has no outputs, of no known width.
    results = finish(task, rows, task.tokenize(rows), np.zeros((0, 1)))
    assert results == [{"labels": None, "scores": None}] * 2
