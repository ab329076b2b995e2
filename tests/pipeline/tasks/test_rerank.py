"""A score for each document, in order, and a ranking; a broken row says what is broken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from task_rows import finish, table

from pipeline.request import Request
from pipeline.tasks import Task
from pipeline.tasks.rerank import Rerank

Make = Callable[..., Task]
ONE = ("relevance",)


def reranker(make: Make, **options: object) -> Task:
    return make("rerank", labels=ONE, **options)


def test_scores_stand_in_the_order_of_the_documents_and_the_ranking_is_best_first(
    make: Make,
) -> None:
    rows = table(query=["a", "b"], documents=[["x", "y", "z"], ["v"]])
    task = reranker(make, raw_scores=True)
    results = finish(task, rows, task.tokenize(rows), [[-1.0], [2.0], [0.5], [3.0]])
    assert results == [
        {"scores": [-1.0, 2.0, 0.5], "ranking": [1, 2, 0]},
        {"scores": [3.0], "ranking": [0]},
    ]


def test_scores_are_sigmoids_even_of_extreme_logits(make: Make) -> None:
    rows = table(query=["a"], documents=[["x", "y", "z", "w"]])
    task = reranker(make)
    (result,) = finish(task, rows, task.tokenize(rows), [[0.0], [200.0], [-200.0], [-20.0]])
    np.testing.assert_allclose(result["scores"], [0.5, 1.0, 0.0, 2.0611537e-9], rtol=1e-5)


def test_equal_documents_keep_their_order(make: Make) -> None:
    rows = table(query=["a"], documents=[["x"] * 5])
    task = reranker(make)
    (result,) = finish(task, rows, task.tokenize(rows), [[1.0], [2.0], [1.0], [2.0], [1.0]])
    assert result["ranking"] == [1, 3, 0, 2, 4]


def test_documents_whose_scores_round_to_one_are_ranked_by_their_logits(make: Make) -> None:
    rows = table(query=["a"], documents=[["x", "y"]])
    task = reranker(make)
    (result,) = finish(task, rows, task.tokenize(rows), [[30.0], [40.0]])
    assert result == {"scores": [1.0, 1.0], "ranking": [1, 0]}


def test_no_documents_are_no_scores_and_no_error(make: Make) -> None:
    rows = table(query=["a", "b"], documents=[[], ["x"]])
    task = reranker(make)
    tokens = task.tokenize(rows)
    assert tokens.errors == {}
    assert finish(task, rows, tokens, [[0.0]])[0] == {"scores": [], "ranking": []}


@pytest.mark.parametrize(
    ("query", "documents", "reason"),
    [
        (None, ["x"], "the query is null"),
        ("a", None, "documents is null"),
        ("a", ["x", None], "documents[1] is null"),
        (None, None, "the query is null"),
    ],
)
def test_a_null_fails_its_row_and_no_other(
    make: Make, query: str | None, documents: list[str | None] | None, reason: str
) -> None:
    kind = pa.list_(pa.string())
    rows = table(
        query=["before", query, "after"],
        documents=pa.array([["x", "y"], documents, ["z"]], kind),
    )
    task = reranker(make, raw_scores=True)
    tokens = task.tokenize(rows)
    assert tokens.errors == {1: reason}
    results = finish(task, rows, tokens, [[1.0], [2.0], [3.0]])
    assert results[0]["scores"] == [1.0, 2.0]
    assert results[1] == {"scores": None, "ranking": None}
    assert results[2]["scores"] == [3.0]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.large_list(pa.string_view()),
    ],
    ids=str,
)
def test_lists_of_every_layout_are_read(make: Make, kind: pa.DataType) -> None:
    rows = table(query=["a", "b", "c"], documents=pa.array([["x", "y"], None, ["z", "w"]], kind))
    task = reranker(make, raw_scores=True)
    tokens = task.tokenize(rows.slice(1))
    assert tokens.errors == {0: "documents is null"}
    results = finish(task, rows.slice(1), tokens, [[1.0], [2.0]])
    assert results[1]["scores"] == [1.0, 2.0]


def test_a_document_that_is_not_utf8_is_named(make: Make) -> None:
    values = pa.array([b"fine", b"\xff"]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), values)
    task = reranker(make)
    errors = task.tokenize(table(query=["a"], documents=lists)).errors
    assert errors == {0: "documents[1] is not valid UTF-8: invalid start byte at byte 0"}


def test_a_query_that_is_not_utf8_is_named(make: Make) -> None:
    task = reranker(make)
    rows = table(query=pa.array([b"\xff", b"a"]).view(pa.string()), documents=[["x"], ["y"]])
    errors = task.tokenize(rows).errors
    assert errors == {0: "the query is not valid UTF-8: invalid start byte at byte 0"}


def test_a_row_whose_result_failed_is_null_and_the_others_keep_theirs(make: Make) -> None:
    rows = table(query=["a", "b", "c"], documents=[["x"], ["y", "z"], ["w"]])
    task = reranker(make, raw_scores=True)
    outputs = [[1.0], [np.nan], [2.0], [3.0]]
    results = finish(task, rows, task.tokenize(rows), outputs, failed=(1,))
    assert [row["scores"] for row in results] == [[1.0], None, [3.0]]
    assert [row["ranking"] for row in results] == [[0], None, [0]]


def test_what_is_not_finite_is_not_even_written_under_a_null(make: Make) -> None:
    rows = table(query=["a", "b"], documents=[["x", "y"], ["z"]])
    task = reranker(make)
    outputs = np.array([[np.nan], [1.0], [2.0]], dtype=np.float32)
    scores, _ = task.columns(rows, task.tokenize(rows), outputs, np.array([True, False]))
    assert len(scores.values) == 1


def test_pairs_have_one_score_a_row(make: Make) -> None:
    rows = table(query=["a", "b", None], document=["x", None, "y"])
    task = reranker(make, document_column="document", raw_scores=True)
    tokens = task.tokenize(rows)
    assert tokens.errors == {1: "the document is null", 2: "the query is null"}
    results = finish(task, rows, tokens, [[1.5]])
    assert results == [{"score": 1.5}, {"score": None}, {"score": None}]


def test_token_types_are_given_where_the_model_has_them(make: Make) -> None:
    rows = table(query=["a"], documents=[["x"]])
    typed = reranker(make, type_ids=True).tokenize(rows)
    assert typed.type_ids is not None
    assert typed.type_ids.tolist() == [0, 0, 0, 1, 1]
    assert reranker(make).tokenize(rows).type_ids is None


def test_the_columns_of_a_task_are_those_that_were_named(make: Make) -> None:
    task = reranker(make, query_column="q", documents_column="d")
    many = Request(inputs=("x",), model="m", query_column="q", documents_column="d")
    assert (Rerank.text_columns(many), Rerank.list_columns(many)) == (("q",), ("d",))
    one = Request(inputs=("x",), model="m", document_column="one")
    assert (Rerank.text_columns(one), Rerank.list_columns(one)) == (("query", "one"), ())
    assert task.tokenize(table(q=["a"], d=pa.array([[None]], pa.list_(pa.string())))).errors == {
        0: "d[0] is null"
    }
