"""Two computed sides → how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from jobs.display import Display
from jobs.pages.words import numbers_open
from jobs.progress_bar import ProgressBar
from jobs.rehearse.compute import Computed
from jobs.rehearse.judgements import Judgements
from jobs.rehearse.overlap import KS
from jobs.rehearse.plan_sides import LEAST_ROWS, Planned
from jobs.rehearse.results import Retrieval
from jobs.rehearse.retrieval import DEPTH, compare
from jobs.rehearse.sample import Sample
from jobs.rehearse.search import Ranking, neighbours, rank
from jobs.rehearse.vectors import read_vectors, rows_with_vectors
from pipeline.errors import InputError
from pipeline.packing import Int64Array

# A bar is worth it from so many searches on.
_BAR_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Answer:
    """A side, and what it computed."""

    planned: Planned
    documents: Computed
    queries: Computed | None  # None: there are none


def common_rows(first: Answer, second: Answer) -> tuple[Int64Array, Mapping[str, int]]:
    """The rows of the sample that have a vector on both sides, and why others have none.

    Raises:
        InputError: there are too few.
    """
    rows = np.intersect1d(
        _with_vectors(first, first.documents), _with_vectors(second, second.documents)
    )
    reasons = _grouped(
        reason
        for answer in (first, second)
        for reason in answer.documents.table["error"].drop_null().to_pylist()
    )
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"only {len(rows)} texts of the sample have a vector on both sides"
            + "".join(f"; {count:,} × {reason}" for reason, count in reasons.items()),
            hint="give texts that both sides can compute",
        )
    return rows, reasons


def _grouped(reasons: Iterable[str]) -> Mapping[str, int]:
    """The first of the reasons that differ in numbers alone → how many; most frequent first."""
    first: dict[str, str] = {}
    found = Counter(first.setdefault(numbers_open(reason), reason) for reason in reasons)
    return dict(found.most_common())


def _with_vectors(answer: Answer, computed: Computed) -> Int64Array:
    return rows_with_vectors(computed.table, answer.planned.column)


def fitting_ks(rows: int, display: Display) -> tuple[int, ...]:
    """The numbers of neighbours that so many rows have."""
    ks = tuple(k for k in KS if k < rows)
    if left_out := [k for k in KS if k not in ks]:
        display.warn(
            f"neighbours of {' and '.join(map(str, left_out))} are left out: {rows:,} texts are "
            f"compared, so give --rows above {left_out[-1]} and a corpus that has them"
        )
    return ks


def near(answer: Answer, rows: Int64Array, k: int, display: Display) -> Ranking:
    """The k nearest neighbours of each row, as places in `rows`."""
    vectors = read_vectors(answer.documents.table, answer.planned.column, rows)
    with _bar(len(rows), answer, display) as bar:
        return neighbours(vectors, k, lambda count: bar.add(count, 0))


def retrieval(
    first: Answer, second: Answer, rows: Int64Array, sample: Sample, judgements: Judgements
) -> Retrieval | None:
    """How both sides find what is relevant to the queries; None where there are none."""
    assert first.queries is not None
    assert second.queries is not None
    asked = np.intersect1d(
        _with_vectors(first, first.queries), _with_vectors(second, second.queries)
    )
    if not len(asked):
        raise InputError(
            "no query has a vector on both sides", hint="give queries that hold a text"
        )
    names = list(judgements.texts)
    queries = [names[number] for number in asked]
    # A judgement is about the first row with an id.
    place = {name: str(row) for row, name in reversed(list(enumerate(sample.ids)))}
    relevance = {
        query: {place[name]: value for name, value in judgements.relevance[query].items()}
        for query in queries
    }
    documents = [str(row) for row in rows]
    found = [_ranked(answer, asked, rows) for answer in (first, second)]
    return Retrieval(
        len(queries),
        judgements.left_out + len(names) - len(queries),
        len(rows),
        tuple(compare(queries, documents, relevance, *found)),
    )


def _ranked(answer: Answer, asked: Int64Array, rows: Int64Array) -> Ranking:
    assert answer.queries is not None
    column = answer.planned.column
    queries = read_vectors(answer.queries.table, column, asked)
    documents = read_vectors(answer.documents.table, column, rows)
    return rank(queries, documents, DEPTH, lambda count: None)


@contextmanager
def _bar(rows: int, answer: Answer, display: Display) -> Iterator[ProgressBar]:
    if rows >= _BAR_ROWS:
        display.say(f"{answer.planned.name:<16} comparing {rows:,} texts with each other")
    with ProgressBar(rows, quiet=display.quiet or rows < _BAR_ROWS) as bar:
        yield bar
