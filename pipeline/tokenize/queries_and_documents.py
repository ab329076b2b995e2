"""Queries and documents that are read apart, and meet as vectors of their tokens, → sequences.

Shapes: R rows, D documents, S sequences, A rows that have a document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.maxsim import Interaction
from pipeline.packing import Batch, Int32Array, Int64Array, Masks, gather
from pipeline.tokenize.tokens import Tokens
from pipeline.tokenize.vector_tokens import NO_VECTOR

# Of the queries whose vectors are held at once, until all of their documents are computed.
_STAGE_TOKENS = 1 << 16

Encode = Callable[[Sequence[str | None]], Tokens]


class QueriesAndDocuments:
    """Queries and documents to sequences; safe to share between threads.

    A query is one sequence for all rows of a stage that ask it, and comes before their documents.

    Args:
        queries: how queries become sequences, one each, with masks.
        documents: the same of documents, one each or one for each of its chunks.
        mean: whether a score is the mean over the tokens of the query.
    """

    def __init__(self, queries: Encode, documents: Encode, *, mean: bool) -> None:
        self._queries = queries
        self._documents = documents
        self._mean = mean

    def encode(
        self,
        queries: Sequence[str | None],
        documents: Sequence[str | None],
        row_of: Int64Array,
        errors: Mapping[int, str],
        name_of: Callable[[int], str],
    ) -> Tokens:
        """As `Pairs.encode`, but with sequences of queries, and `interaction`.

        `name_of` gives the name of a document in messages, by its number.
        """
        errors = dict(errors)
        asked = dict.fromkeys(query for row, query in enumerate(queries) if row not in errors)
        numbers = {query: i for i, query in enumerate(asked)}
        query_of = np.array([numbers.get(query, -1) for query in queries], dtype=np.int64)
        asked_tokens, refused = _checked(self._queries([*asked]))
        for row in np.flatnonzero(np.isin(query_of, [*refused])).tolist():
            reason = refused[int(query_of[row])].replace("the text", "the query", 1)
            errors.setdefault(row, reason)
        left_out = np.isin(row_of, [*errors])
        read = [None if out else text for text, out in zip(documents, left_out, strict=True)]
        tokens, refused = _checked(self._documents(read))
        for i, reason in refused.items():
            errors.setdefault(int(row_of[i]), reason.replace("the text", name_of(i), 1))
        return self._joined(asked_tokens, query_of, tokens, row_of, errors)

    def _joined(
        self,
        queries: Tokens,
        query_of: Int64Array,
        documents: Tokens,
        row_of: Int64Array,
        errors: dict[int, str],
    ) -> Tokens:
        """The sequences of both, in the order of the rows.

        Args:
            queries: the distinct ones.
            query_of: [R], that of each row.
            documents: all of them.
            row_of: [D], the row of each document.
            errors: row → why it has no sequence.
        """
        kept = np.flatnonzero(~np.isin(row_of[documents.row_of], [*errors]))
        document_of = documents.row_of[kept]
        rows = row_of[document_of]
        asking = np.unique(rows)  # [A]
        query_lengths = np.zeros(queries.rows, dtype=np.int64)
        query_lengths[queries.row_of] = queries.lengths
        query_lengths = query_lengths[query_of[asking]]
        stages, leaders = _staged(query_of[asking], query_lengths)
        leading = np.unique(leaders)
        places = _places(np.concatenate([asking[leading], rows]), len(leading))
        at_query = places[: len(leading)]
        sequence_of_query = np.searchsorted(queries.row_of, query_of[asking[leading]])
        chosen = _scattered(places, sequence_of_query, len(queries.row_of) + kept)
        rank = np.searchsorted(asking, rows)  # of a document's row among those that ask
        query_at = at_query[np.searchsorted(leading, leaders)]  # [A]
        interaction = Interaction(
            query_of=_scattered(places, at_query, query_at[rank]),
            stage=_scattered(places, stages[leading], stages[rank]),
            document=_scattered(places, np.full(len(leading), -1), document_of),
            mean=self._mean,
        )
        tokens = _gathered(queries, documents, chosen)
        read = _sums(len(query_of), rows, documents.lengths[kept])
        read[asking] += query_lengths
        lost = self._lost(queries, query_of, documents, row_of, asking)
        return Tokens(
            ids=tokens.ids,
            offsets=tokens.cu_seqlens.astype(np.int64),
            row_of=_scattered(places, asking[leading], rows),
            n_tokens=read,
            truncated=lost > 0,
            errors=errors,
            cut=lost,
            masks=tokens.masks,
            interaction=interaction,
        )

    def _lost(
        self,
        queries: Tokens,
        query_of: Int64Array,
        documents: Tokens,
        row_of: Int64Array,
        asking: Int64Array,
    ) -> Int32Array:
        """Tokens that were cut off a row's texts, [R]; none where it has no sequence."""
        of_documents, of_queries = _cut(documents), _cut(queries)
        lost = np.zeros(len(query_of), dtype=np.int32)
        sums = _sums(len(query_of), row_of, of_documents)
        lost[asking] = sums[asking] + of_queries[query_of[asking]]
        return lost


def _checked(tokens: Tokens) -> tuple[Tokens, dict[int, str]]:
    """Tokens, and text → why it cannot be scored: its errors, or that it has no vector."""
    assert tokens.masks is not None
    before = np.concatenate([[0], np.cumsum(tokens.masks.vector)])
    none = tokens.row_of[np.diff(before[tokens.offsets]) == 0]
    return tokens, {int(text): NO_VECTOR for text in none} | tokens.errors


def _staged(query_of: Int64Array, lengths: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The stage of each row, [A], and the first of its rows that asks the same."""
    stages, leaders = np.zeros_like(query_of), np.zeros_like(query_of)
    stage, total, held = 0, 0, dict[int, int]()
    for i, (query, length) in enumerate(zip(query_of.tolist(), lengths.tolist(), strict=True)):
        if query not in held:
            if held and total + length > _STAGE_TOKENS:
                stage, total, held = stage + 1, 0, {}
            held[query] = i
            total += length
        stages[i], leaders[i] = stage, held[query]
    return stages, leaders


def _places(owners: Int64Array, queries: int) -> Int64Array:
    """Where sequences go, [S], so that each row has its query, one of the first, first."""
    order = np.lexsort((np.arange(len(owners)) >= queries, owners))
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _scattered(places: Int64Array, of_queries: Int64Array, of_documents: Int64Array) -> Int64Array:
    values = np.empty(len(places), dtype=np.int64)
    values[places] = np.concatenate([of_queries, of_documents])
    return values


def _sums(rows: int, row_of: Int64Array, values: npt.NDArray[np.integer]) -> Int32Array:
    return np.bincount(row_of, weights=values, minlength=rows).astype(np.int32)


def _cut(tokens: Tokens) -> Int32Array:
    return np.zeros(tokens.rows, dtype=np.int32) if tokens.cut is None else tokens.cut


def _gathered(first: Tokens, second: Tokens, chosen: Int64Array) -> Batch:
    """Sequences of two Tokens, those of the second counted on from the first's."""
    assert first.masks is not None
    assert second.masks is not None
    vector = np.concatenate([first.masks.vector, second.masks.vector])
    attention = None
    if first.masks.attention is not None or second.masks.attention is not None:
        attention = np.concatenate([_attention(first.masks), _attention(second.masks)])
    ids = np.concatenate([first.ids, second.ids])
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return gather(ids, offsets, chosen, masks=Masks(vector, attention))


def _attention(masks: Masks) -> npt.NDArray[np.bool_]:
    return np.ones_like(masks.vector) if masks.attention is None else masks.attention
