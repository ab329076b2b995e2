"""Exact search: every row is compared with every other, in blocks of matrix products.

Where a text has several vectors, one for each chunk, two texts are as alike as their two most
similar chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jobs.rehearse.vectors import Float32Array, Sparse, Vectors
from pipeline.packing import Int64Array

# Scores that are held at once.
_SCORES = 1 << 24


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most similar documents of each query, best first; equal ones in their order."""

    rows: Int64Array  # [queries, k] numbers of documents
    scores: Float32Array  # [queries, k]


def neighbours(vectors: Vectors, k: int, on_rows: Callable[[int], None]) -> Ranking:
    """The k nearest other rows of each row.

    Args:
        vectors: of more than k rows.
        k: at least 1.
        on_rows: called with the number of rows that were just searched for.
    """
    return _search(vectors, vectors, k, on_rows, among_themselves=True)


def rank(queries: Vectors, documents: Vectors, k: int, on_rows: Callable[[int], None]) -> Ranking:
    """The k documents that are nearest to each query, or all where there are fewer."""
    k = min(k, documents.rows)
    return _search(queries, documents, k, on_rows, among_themselves=False)


def _search(
    queries: Vectors,
    documents: Vectors,
    k: int,
    on_rows: Callable[[int], None],
    *,
    among_themselves: bool,
) -> Ranking:
    rows: list[Int64Array] = []
    best: list[Float32Array] = []
    for first, scores in _scores(queries, documents):
        if among_themselves:
            here = np.arange(len(scores))
            scores[here, first + here] = -np.inf
        rows.append(top(scores, k))
        best.append(np.take_along_axis(scores, rows[-1], axis=1))
        on_rows(len(scores))
    return Ranking(np.concatenate(rows), np.concatenate(best))


def top(scores: Float32Array, k: int) -> Int64Array:
    """The columns of the k largest scores of each row, largest first, equal ones ascending.

    Args:
        scores: [R, N].
        k: from 1 to N.
    """
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    part.sort(axis=1)
    chosen = np.take_along_axis(scores, part, axis=1)
    found = np.take_along_axis(part, np.argsort(-chosen, axis=1, kind="stable"), axis=1)
    least = chosen.min(axis=1, keepdims=True)
    tied = (scores == least).sum(axis=1) > (chosen == least).sum(axis=1)
    if tied.any():  # a partition takes any of equal scores
        found[tied] = np.argsort(-scores[tied], axis=1, kind="stable")[:, :k]
    return found


def _scores(queries: Vectors, documents: Vectors) -> Iterator[tuple[int, Float32Array]]:
    """The first row of a block of queries, and the scores of all documents: [rows, documents]."""
    if queries.sparse is not None and documents.sparse is not None:
        yield from _sparse_scores(queries, documents)
        return
    assert queries.dense is not None
    assert documents.dense is not None
    vectors = len(queries.dense) / queries.rows
    step = max(1, int(_SCORES / vectors / len(documents.dense)))
    for first in range(0, queries.rows, step):
        last = min(first + step, queries.rows)
        start, end = _vectors_of(queries, first), _vectors_of(queries, last)
        products: Float32Array = queries.dense[start:end] @ documents.dense.T
        yield first, _best(products, queries, documents, first, last)


def _vectors_of(vectors: Vectors, row: int) -> int:
    """The first vector of a row, or the number of vectors after the last row."""
    if vectors.starts is None:
        return row
    if row < len(vectors.starts):
        return int(vectors.starts[row])
    if vectors.dense is not None:
        return len(vectors.dense)
    assert vectors.sparse is not None
    return len(vectors.sparse.offsets) - 1


def _best(
    scores: Float32Array, queries: Vectors, documents: Vectors, first: int, last: int
) -> Float32Array:
    """The best score of the vectors of each query with those of each document."""
    if documents.starts is not None:
        scores = np.maximum.reduceat(scores, documents.starts, axis=1)
    if queries.starts is not None:
        starts = queries.starts[first:last] - queries.starts[first]
        scores = np.maximum.reduceat(scores, starts, axis=0)
    return scores


def _sparse_scores(queries: Vectors, documents: Vectors) -> Iterator[tuple[int, Float32Array]]:
    """As `_scores`: each term of a query adds to the documents that have it."""
    assert queries.sparse is not None
    assert documents.sparse is not None
    starts, owners, weights = _postings(documents.sparse)
    count = len(documents.sparse.offsets) - 1
    for row in range(queries.rows):
        start, end = _vectors_of(queries, row), _vectors_of(queries, row + 1)
        scores = np.zeros((end - start, count), dtype=np.float32)
        for vector in range(start, end):
            entries = slice(*queries.sparse.offsets[vector : vector + 2])
            terms = queries.sparse.terms[entries]
            for term, weight in zip(terms, queries.sparse.weights[entries], strict=True):
                if term + 1 < len(starts):
                    posting = slice(starts[term], starts[term + 1])
                    scores[vector - start, owners[posting]] += weight * weights[posting]
        yield row, _best(scores, queries, documents, row, row + 1)


def _postings(sparse: Sparse) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Term → its vectors and their weights: the first of each term, then all of them."""
    order = np.argsort(sparse.terms, kind="stable")
    terms = int(sparse.terms.max(initial=-1)) + 1
    starts = np.searchsorted(sparse.terms[order], np.arange(terms + 1))
    owners = np.repeat(np.arange(len(sparse.offsets) - 1), np.diff(sparse.offsets))
    return starts, owners[order], sparse.weights[order]
