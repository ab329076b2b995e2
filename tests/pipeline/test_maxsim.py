"""MaxSim beside a plain double loop, whatever the order of documents and the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline import maxsim as module
from pipeline.maxsim import Interaction, Scorer, maxsim
from pipeline.outputs import Lists, Outputs
from pipeline.packing import Batch, Int64Array

Vectors = np.ndarray[Any, np.dtype[np.float32]]
WIDTH = 7


def drawn(seed: int, counts: list[int]) -> list[Vectors]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((count, WIDTH)).astype(np.float32) for count in counts]


def plain(query: Vectors, document: Vectors) -> float:
    total = 0.0
    for asked in query.astype(np.float64):
        total += max(float(asked @ given) for given in document.astype(np.float64))
    return total


def scored(queries: list[Vectors], documents: list[Vectors], of: list[int], mean: bool) -> Vectors:
    """Scores of documents through a Scorer, in batches of two documents in odd order."""
    count = len(queries)
    # Documents come after all queries here; where they are in a block is not the Scorer's concern.
    query_of = np.array([*range(count), *of])
    numbers = np.arange(len(query_of)) - count
    interaction = Interaction(query_of, np.zeros_like(query_of), numbers, mean)
    scorer, everything = Scorer(interaction), [*queries, *documents]
    found = np.zeros(len(everything), dtype=np.float32)
    order = np.random.default_rng(3).permutation(np.arange(count, len(everything)))
    for some in [np.arange(count), *np.array_split(order, (len(order) + 1) // 2)]:
        chosen = [everything[i] for i in some]
        counts = np.array([len(vectors) for vectors in chosen])
        ids = np.zeros(int(counts.sum()), dtype=np.int32)
        lists = Lists(counts, ids, np.concatenate(chosen))
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        batch = Batch(ids, bounds, int(counts.max()), some)
        rows = np.zeros((len(some), 0), dtype=np.float32)
        found[some] = scorer(batch, Outputs(rows, {"multi": lists})).rows[:, 0]
    assert not found[:count].any()
    return found[count:]


@pytest.mark.parametrize("products", [1, 5, 40, 1 << 22])
def test_a_score_is_that_of_a_plain_double_loop(
    monkeypatch: pytest.MonkeyPatch, products: int
) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", products)
    (query,) = drawn(0, [6])
    documents = drawn(1, [1, 9, 3, 3, 20, 1])
    counts = np.array([len(document) for document in documents])
    found = maxsim(query, np.concatenate(documents), counts)
    expected = [plain(query, document) for document in documents]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_products_are_bounded_whatever_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    reduceat = np.maximum.reduceat

    class Watched:
        @staticmethod
        def reduceat(products: Vectors, *args: Any, **kwargs: Any) -> Any:
            nonlocal largest
            largest = max(largest, products.size)
            return reduceat(products, *args, **kwargs)

    monkeypatch.setattr(module, "_PRODUCTS", 100)
    monkeypatch.setattr(module.np, "maximum", Watched)
    (query,) = drawn(0, [30])
    documents = drawn(1, [90, 2, 50, 3, 40])
    counts = np.array([len(document) for document in documents])
    maxsim(query, np.concatenate(documents), counts)
    assert 0 < largest <= 100


def test_no_document_has_no_score() -> None:
    assert maxsim(np.ones((2, 3), np.float32), np.ones((0, 3), np.float32), np.array([])).size == 0


@pytest.mark.parametrize("mean", [False, True])
def test_each_document_is_scored_with_its_own_query(mean: bool) -> None:
    queries, documents = drawn(0, [4, 1, 6]), drawn(1, [3, 8, 1, 5, 5, 2, 9])
    of = [2, 0, 0, 1, 2, 0, 1]
    expected = [
        plain(queries[q], document) / (len(queries[q]) if mean else 1)
        for q, document in zip(of, documents, strict=True)
    ]
    np.testing.assert_allclose(scored(queries, documents, of, mean), expected, rtol=0, atol=1e-5)


def test_what_is_not_finite_spoils_the_scores_that_it_is_in() -> None:
    queries, documents = drawn(0, [4, 4]), drawn(1, [3, 3, 3])
    queries[1][2, 0] = np.nan
    documents[0][1, 3] = np.nan
    of = [0, 0, 1]
    interaction = Interaction(np.array([0, 1, *of]), np.zeros(5, dtype=np.int64), np.arange(5) - 2)
    scorer = Scorer(interaction)

    def rows(some: Int64Array, chosen: list[Vectors]) -> list[bool]:
        counts = np.array([len(vectors) for vectors in chosen])
        lists = Lists(counts, np.zeros(int(counts.sum()), np.int32), np.concatenate(chosen))
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        outputs = Outputs(np.zeros((len(some), 0), np.float32), {"multi": lists})
        return np.isfinite(scorer(Batch(lists.ids, bounds, 4, some), outputs).rows[:, 0]).tolist()

    assert rows(np.arange(2), queries) == [True, False]
    assert rows(np.arange(2, 5), documents) == [False, True, False]


def test_queries_come_before_their_documents_stage_by_stage() -> None:
    query_of = np.array([0, 0, 0, 3, 3, 3, 6, 6])
    stage = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    lengths = np.array([2, 9, 4, 3, 8, 1, 5, 7])
    document = np.array([-1, 0, 1, -1, 2, 3, -1, 4])
    found = Interaction(query_of, stage, document).batches(lengths, 10)
    batches = [batch.tolist() for batch in found]
    assert batches == [[3, 0], [1], [4], [2, 5], [6], [7]]
