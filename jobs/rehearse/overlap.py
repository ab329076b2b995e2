"""How many of a row's nearest neighbours are the same on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.rehearse.search import Ranking
from pipeline.packing import Int64Array

#: Numbers of neighbours that are compared.
KS = (1, 10, 100)
_QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which share of the k nearest neighbours stays, over all rows."""

    k: int
    mean: float
    quantiles: dict[int, float]  # per cent of the rows → at most this share
    unchanged: float  # share of the rows that keep all k
    counts: tuple[int, ...]  # rows that keep 0, 1, … k of them


def overlaps(first: Ranking, second: Ranking, ks: Sequence[int]) -> list[Overlap]:
    """The overlap of two searches at each k, which neither has fewer columns than."""
    found = []
    for k in ks:
        kept = shared(first.rows, second.rows, k)
        shares = kept / k
        quantiles = np.percentile(shares, _QUANTILES)
        found.append(
            Overlap(
                k,
                float(shares.mean()),
                dict(zip(_QUANTILES, quantiles.tolist(), strict=True)),
                float((kept == k).mean()),
                tuple(np.bincount(kept, minlength=k + 1).tolist()),
            )
        )
    return found


def shared(first: Int64Array, second: Int64Array, k: int) -> Int64Array:
    """How many of the first k numbers of each row both have, [R]."""
    both = np.sort(np.concatenate([first[:, :k], second[:, :k]], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1))


def most_changed(first: Ranking, second: Ranking, ks: Sequence[int], count: int) -> Int64Array:
    """The rows that keep the fewest neighbours: of ten, or of fewer; then of the most; in order.

    Args:
        first: of one side.
        second: of the other.
        ks: ascending numbers of neighbours.
        count: of rows.
    """
    near = max(k for k in ks if k <= 10)
    keys = [shared(first.rows, second.rows, k) for k in (max(ks), near)]
    return np.lexsort([np.arange(len(first.rows)), *keys])[:count]
