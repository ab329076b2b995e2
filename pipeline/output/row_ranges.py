"""Rows of shards: their numbers, and numbers as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]  # row numbers in a shard, from 0, ascending
Mask = npt.NDArray[np.bool_]  # [rows of a shard]
Places = Mapping[str, Rows]  # shard id → its rows
NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


def union(places: Iterable[Places]) -> dict[str, Rows]:
    """All rows of several places."""
    rows: dict[str, list[Rows]] = {}
    for one in places:
        for shard, numbers in one.items():
            rows.setdefault(shard, []).append(numbers)
    return {shard: np.unique(np.concatenate(numbers)) for shard, numbers in rows.items()}


def ranges_of(rows: Rows) -> list[list[int]]:
    """Row numbers as [first, count] ranges."""
    if not rows.size:
        return []
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    counts = np.diff(np.append(starts, rows.size))
    return [[int(rows[start]), int(count)] for start, count in zip(starts, counts, strict=True)]


def rows_in(ranges: Sequence[Sequence[int]], limit: int) -> Rows:
    """The row numbers of [first, count] ranges.

    Raises:
        ValueError: a range is not within the `limit` rows of a shard.
    """
    mask = np.zeros(limit, dtype=np.bool_)
    for first, count in ranges:
        if not (first >= 0 and count > 0 and first + count <= limit):
            raise ValueError(f"rows {first}+{count} of {limit}")
        mask[first : first + count] = True
    return np.flatnonzero(mask)
