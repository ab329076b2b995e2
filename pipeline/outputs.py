"""What the heads of a model compute of a batch or of a block: rows of one width, and lists.

Shapes: S sequences, T tokens, K spans, N entries of all lists, V values of an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Sums that stand for a list where lists are compared: a vocabulary has too many terms for that.
FOLDED = 1024


@dataclass(frozen=True, slots=True)
class Lists:
    """One list of any length for each sequence, one after another."""

    counts: Int64Array  # [S]
    ids: Int32Array  # [N] terms of the vocabulary, or places of tokens in their sequence
    values: Float32Array  # [N] weights of terms, or [N, V] vectors of tokens

    @classmethod
    def empty(cls, sequences: int) -> Self:
        """Lists without entries."""
        none = np.zeros(0, dtype=np.int32)
        return cls(np.zeros(sequences, dtype=np.int64), none, none.astype(np.float32))

    @classmethod
    def placed(cls, sequences: int, parts: Sequence[tuple[Int64Array, Self]]) -> Self:
        """The lists of `sequences` sequences, each part with the sequences that it holds."""
        counts = np.zeros(sequences, dtype=np.int64)
        for places, part in parts:
            counts[places] = part.counts
        starts = np.cumsum(counts) - counts
        ids = np.zeros(int(counts.sum()), dtype=np.int32)
        width = next((part.values.shape[1:] for _, part in parts), ())
        values = np.zeros((ids.shape[0], *width), dtype=np.float32)
        for places, part in parts:
            own_starts = np.cumsum(part.counts) - part.counts
            at = np.arange(part.ids.shape[0]) + np.repeat(starts[places] - own_starts, part.counts)
            ids[at], values[at] = part.ids, part.values
        return cls(counts, ids, values)

    @property
    def owners(self) -> Int64Array:
        """The sequence that each entry belongs to, [N]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def nbytes(self) -> int:
        """What they hold in memory."""
        return int(self.counts.nbytes + self.ids.nbytes + self.values.nbytes)

    def finite(self) -> BoolArray:
        """Whether all values of a list are finite, [S]."""
        finite = np.ones(len(self.counts), dtype=np.bool_)
        odd = ~np.isfinite(self.values)
        finite[self.owners[odd if odd.ndim == 1 else np.any(odd, axis=1)]] = False
        return finite

    def not_finite(self) -> Self:
        """A list of one entry that is not finite, to stand for one of these."""
        values = np.full((1, *self.values.shape[1:]), np.nan, dtype=np.float32)
        return type(self)(np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int32), values)

    def take(self, sequences: BoolArray) -> Self:
        """The lists of some sequences."""
        kept = np.repeat(sequences, self.counts)
        return type(self)(self.counts[sequences], self.ids[kept], self.values[kept])

    def replaced(self, sequence: int, other: Self) -> Self:
        """The same lists, but that of one sequence, which is the only one of `other`."""
        everything = np.arange(len(self.counts))
        others = everything != sequence
        rest = (everything[others], self.take(others))
        return self.placed(len(self.counts), [rest, (np.array([sequence]), other)])

    def folded(self) -> Float32Array:
        """Lists that are near have near rows, [S, FOLDED]: sums over terms, or over values of
        tokens, of equal remainder.
        """
        owners, ids, values = self.owners, self.ids, self.values
        if values.ndim > 1:
            width = values.shape[1]
            ranks = np.arange(len(owners)) - (np.cumsum(self.counts) - self.counts)[owners]
            owners = np.repeat(owners, width)
            ids = (ranks[:, None] * width + np.arange(width)).reshape(-1).astype(np.int32)
            values = values.reshape(-1)
        at = owners * FOLDED + ids % FOLDED
        sums = np.bincount(at, weights=values, minlength=len(self.counts) * FOLDED)
        return sums.reshape(-1, FOLDED).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a batch or a block."""

    # [S, width], [S] of a single class, or with one per token [T, width] or per span [K, width];
    # [S, 0] without vectors
    rows: Float32Array
    lists: Mapping[str, Lists] = field(default_factory=dict)  # by kind of vectors: sparse, multi

    def lists_of(self, kind: str, sequences: int) -> Lists:
        """The lists of a kind of vectors; empty ones where no batch is computed."""
        return self.lists.get(kind) or Lists.empty(sequences)

    def take(self, some: BoolArray) -> Self:
        """The outputs of some sequences; with an output per span, [K], of some spans."""
        lists = {kind: lists.take(some) for kind, lists in self.lists.items()}
        return type(self)(self.rows[some], lists)

    @property
    def nbytes(self) -> int:
        """What they hold in memory."""
        return int(self.rows.nbytes) + sum(lists.nbytes for lists in self.lists.values())

    def finite(self) -> BoolArray:
        """Whether all values of a row, and of its lists, are finite, [S] or [T]."""
        rows = self.rows if self.rows.ndim > 1 else self.rows[:, None]
        finite = np.ones(len(rows), dtype=np.bool_)
        finite[~np.isfinite(rows).all(axis=1)] = False
        for lists in self.lists.values():
            finite[~lists.finite()] = False
        return finite

    def comparable(self) -> Float32Array:
        """Rows that two computations of the same values share: those as they are without lists."""
        if not self.lists:
            return self.rows
        return np.hstack([self.rows, *(lists.folded() for lists in self.lists.values())])
