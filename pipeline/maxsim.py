"""MaxSim: how well a document answers a query, of which each token has a vector.

The score is the sum over the query's tokens of the largest inner product with a token of the
document (ColBERT), or their mean where a model was trained so.

Shapes: S sequences, D documents, N vectors of all documents, Q vectors of a query, V values of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.outputs import Float32Array, Int64Array, Lists, Outputs
from pipeline.packing import Batch, pack

# Inner products that stand at once, 4 bytes each.
_PRODUCTS = 1 << 22


def maxsim(query: Float32Array, documents: Float32Array, counts: Int64Array) -> Float32Array:
    """The score of each document, [D].

    Args:
        query: [Q, V].
        documents: one after another, [N, V].
        counts: vectors of each document, [D], ≥ 1.
    """
    scores = np.zeros(len(counts), dtype=np.float64)
    ends = np.cumsum(counts)
    at_once = max(1, min(len(query), _PRODUCTS // max(1, int(counts.max(initial=1)))))
    start = 0
    while start < len(counts):
        first = int(ends[start] - counts[start])
        limit = first + _PRODUCTS // at_once
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        some = documents[first : int(ends[stop - 1])].T
        firsts = ends[start:stop] - counts[start:stop] - first
        for row in range(0, len(query), at_once):
            products = query[row : row + at_once] @ some
            scores[start:stop] += np.maximum.reduceat(products, firsts, axis=1).sum(
                axis=0, dtype=np.float64
            )
        start = stop
    return scores.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Interaction:
    """Which sequences of a block are queries, and which documents are scored with each.

    Attributes:
        query_of: [S], the sequence of a document's query; of a query, itself.
        stage: [S], not decreasing; a query has that of all of its documents.
        document: [S], the number of the document that a sequence is, or is a chunk of; -1 of a
            query.
        mean: whether scores are divided by the number of a query's vectors.
    """

    query_of: Int64Array
    stage: Int64Array
    document: Int64Array
    mean: bool = False

    def batches(self, lengths: Int64Array, token_budget: int) -> Iterator[Int64Array]:
        """As `pack`, each query before its documents: of a stage, first all of its queries."""
        queries = self.document < 0
        for stage in np.unique(self.stage):
            for kind in (queries, ~queries):
                some = np.flatnonzero((self.stage == stage) & kind)
                for chosen in pack(lengths[some], token_budget):
                    yield some[chosen]


class Scorer:
    """Turns the vectors of batches into scores of their documents, in the order of `batches`.

    It holds the vectors of one stage's queries, and none of a document's.
    """

    def __init__(self, interaction: Interaction) -> None:
        self._of = interaction
        self._stage = -1
        self._queries: dict[int, Float32Array] = {}

    def __call__(self, batch: Batch, outputs: Outputs) -> Outputs:
        """Rows [S, 1]: a document's score; 0 of a query, or NaN where it is not finite."""
        given, sequences = outputs.lists["multi"], batch.sequences
        scores = np.zeros((len(sequences), 1), dtype=np.float32)
        query_of = self._of.query_of[sequences]
        if len(sequences) and self._of.stage[sequences[0]] != self._stage:
            self._stage = int(self._of.stage[sequences[0]])
            self._queries.clear()
        if len(sequences) and self._of.document[sequences[0]] < 0:
            each = np.split(given.values, np.cumsum(given.counts)[:-1])
            self._queries.update(zip(sequences.tolist(), each, strict=True))
            scores[~given.finite()] = np.nan
            return Outputs(scores)
        for number, places, vectors, counts in _by_query(query_of, given):
            query = self._queries[number]
            found = maxsim(query, vectors, counts)
            scores[places, 0] = found / len(query) if self._of.mean else found
        return Outputs(scores)


def _by_query(
    query_of: Int64Array, given: Lists
) -> Iterator[tuple[int, Int64Array, Float32Array, Int64Array]]:
    """Each query of a batch: its number, the places of its documents, their vectors and counts."""
    order = np.argsort(query_of, kind="stable")
    counts, queries = given.counts[order], query_of[order]
    values = given.values
    if (order[1:] < order[:-1]).any():
        values = values[np.argsort(query_of[given.owners], kind="stable")]
    ends = np.cumsum(counts)
    firsts = np.flatnonzero(np.diff(queries, prepend=-1))
    for first, stop in zip(firsts, [*firsts[1:], len(queries)], strict=True):
        at = np.s_[int(ends[first] - counts[first]) : int(ends[stop - 1])]
        yield int(queries[first]), order[first:stop], values[at], counts[first:stop]
