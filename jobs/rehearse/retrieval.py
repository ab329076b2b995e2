"""How well each side finds the documents that are relevant to queries."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.rehearse.bootstrap import Mean, bootstrapped
from jobs.rehearse.search import Ranking
from pipeline.errors import UsageError

#: Documents of a ranking that are looked at.
DEPTH = 100
#: Our name of a metric → that of ir-measures. The first decides.
METRICS = {"nDCG@10": "nDCG@10", "recall@100": "R@100", "MRR@100": "RR"}
Relevance = Mapping[str, Mapping[str, int]]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric on both sides, over the same queries."""

    metric: str
    first: Mean
    second: Mean
    difference: Mean  # second - first of each query
    better: int  # queries for which the second side is better
    worse: int


def load_measures() -> Any:
    """The package ir_measures.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("ir_measures")
    except ImportError as error:
        raise UsageError(
            f"--qrels needs a package that is not installed ({error})",
            hint="install bei-jobs with its extra: evaluate",
        ) from error


def compare(
    queries: Sequence[str],
    documents: Sequence[str],
    relevance: Relevance,
    first: Ranking,
    second: Ranking,
) -> list[Comparison]:
    """Each metric of two searches.

    Args:
        queries: ids, in the order of the rankings.
        documents: ids by number.
        relevance: query → document → relevance above 0.
        first: of the one side, with up to DEPTH documents.
        second: of the other.
    """
    before = measured(queries, documents, relevance, first)
    after = measured(queries, documents, relevance, second)
    return [
        Comparison(
            name,
            bootstrapped(before[name]),
            bootstrapped(after[name]),
            bootstrapped(after[name] - before[name]),
            int((after[name] > before[name]).sum()),
            int((after[name] < before[name]).sum()),
        )
        for name in METRICS
    ]


def measured(
    queries: Sequence[str], documents: Sequence[str], relevance: Relevance, ranking: Ranking
) -> dict[str, Values]:
    """Metric → its value for each query, [queries]."""
    ir = load_measures()
    measures = {ir.parse_measure(theirs): ours for ours, theirs in METRICS.items()}
    # Its own order of equal scores would be that of ids: ranks leave no two equal.
    run = {
        query: {documents[row]: float(DEPTH - rank) for rank, row in enumerate(rows)}
        for query, rows in zip(queries, ranking.rows.tolist(), strict=True)
    }
    wanted = {query: dict(relevance[query]) for query in queries}
    place = {query: at for at, query in enumerate(queries)}
    values = {name: np.zeros(len(queries)) for name in METRICS}
    for metric in ir.iter_calc(list(measures), wanted, run):
        values[measures[metric.measure]][place[metric.query_id]] = metric.value
    return values
