"""Cuts by bytes: where a part would be too large, its rows are divided further.

Every boundary of the cuts stays where it is, so a file that needs no division has the same parts
as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.input.formats.sizes import Sizes
from pipeline.packing import Int64Array
from pipeline.shards import Cut

PART_MAX_BYTES = 256 << 20
# Estimates are good enough where even rows of four times the size would fit.
_TRUSTED_BYTES = PART_MAX_BYTES // 4
# Bytes of text in a token, of most scripts at least.
_TOKEN_TEXT_BYTES = 3
# The rows of a cut that is divided go into parts of at most this size.
_DIVIDED_BYTES = PART_MAX_BYTES // 4


@dataclass(frozen=True, slots=True)
class ByteLimits:
    """What the bytes of a shard are, which are at most PART_MAX_BYTES.

    A part holds kept columns and results; the texts are held while rows of the shard may fail.
    """

    kept: Collection[str]  # the id column too
    texts: Collection[str]
    row_bytes: int  # estimated results of a row
    # Bytes of text for which a part has a row, which repeats what is kept; 0: a row for each row
    chunk_bytes: int = 0
    token_bytes: float = 0.0  # estimated results of a token, besides
    most_tokens: int = 0  # of a row

    def least(self, sizes: Sizes) -> Int64Array:
        """What is in memory of each stretch at least, [S]: input, and results that grow with it."""
        least = sizes.of({*self.kept, *self.texts})
        grows = self.chunk_bytes or self.token_bytes
        return np.maximum(least, self._part(sizes)) if grows else least

    def bytes(self, sizes: Sizes) -> Int64Array:
        """Of each stretch, [S]: of its part or of its texts, whichever is more."""
        most: Int64Array = np.maximum(self._part(sizes), self.least(sizes))
        return most

    def _part(self, sizes: Sizes) -> Int64Array:
        row_bytes = 0 if self.token_bytes else self.row_bytes  # which is the most of a row then
        part = sizes.of(self.kept) + row_bytes * sizes.rows
        if self.chunk_bytes:
            chunks = sizes.of(self.texts) / self.chunk_bytes / np.maximum(1, sizes.rows)
            part = np.ceil(part * (1 + chunks)).astype(np.int64)
        if self.token_bytes:
            tokens = sizes.of(self.texts) / _TOKEN_TEXT_BYTES
            if not self.chunk_bytes:
                tokens = np.minimum(tokens, self.most_tokens * sizes.rows)
            part = np.ceil(part + tokens * self.token_bytes).astype(np.int64)
        return part

    def exceeded(self, sizes: Sizes) -> bool:
        """Whether the part of all stretches would be too large."""
        # Rows per shard alone bound the results: a few ids with them do not count.
        part = int(self._part(sizes).sum())
        return part > PART_MAX_BYTES * 33 // 32 or int(self.least(sizes).sum()) > PART_MAX_BYTES


def divided(
    cuts: Sequence[Cut],
    sizes: Sizes,
    limits: ByteLimits,
    measure: Callable[[Sequence[Cut]], Sequence[Sizes]],
) -> list[Cut]:
    """Cuts that cover the same rows, in order, of which none exceeds the limits or is divisible.

    Args:
        cuts: of a whole file, in order.
        sizes: of all its rows.
        limits: of a shard.
        measure: reads the rows of some cuts to know their sizes, where these are not sure.
    """
    ends = np.cumsum(sizes.rows)
    of_cuts = [_between(sizes, ends, cut.first_row, cut.end) for cut in cuts]
    unsure = [i for i, (of_cut, whole) in enumerate(of_cuts) if _unsure(of_cut, whole, limits)]
    measured = measure([cuts[i] for i in unsure]) if unsure else ()
    known = dict(zip(unsure, measured, strict=True))
    found: list[Cut] = []
    for index, cut in enumerate(cuts):
        of_cut = known.get(index, of_cuts[index][0])
        found += _divide(cut, of_cut, limits) if limits.exceeded(of_cut) else [cut]
    return found


def cut_bytes(cuts: Sequence[Cut], sizes: Sizes | None, limits: ByteLimits | None) -> list[int]:
    """The bytes of each cut, as far as they are known; none without limits."""
    if sizes is None or limits is None:
        return []
    ends = np.cumsum(sizes.rows)
    found = (_between(sizes, ends, cut.first_row, cut.end)[0] for cut in cuts)
    return [int(limits.bytes(of_cut).sum()) for of_cut in found]


def _between(sizes: Sizes, ends: Int64Array, first: int, end: int) -> tuple[Sizes, Sizes]:
    """The stretches of rows [first, end), those at the edges by their share, and as a whole."""
    at = slice(np.searchsorted(ends, first, "right"), np.searchsorted(ends, end, "left") + 1)
    stops = np.minimum(ends[at], end)
    rows = stops - np.maximum(ends[at] - sizes.rows[at], first)
    whole = Sizes(
        sizes.columns, sizes.rows[at], sizes.bytes[at], sizes.exact[at], sizes.offsets[at]
    )
    share = rows / np.maximum(1, whole.rows)
    size = np.ceil(whole.bytes * share[:, None]).astype(np.int64)
    exact = whole.exact & (rows == whole.rows)
    return Sizes(sizes.columns, rows, size, exact, whole.offsets), whole


def _unsure(of_cut: Sizes, whole: Sizes, limits: ByteLimits) -> bool:
    """Whether rows must be read to know if, or where, to divide a cut."""
    if (of_cut.offsets >= 0).any():  # text was read, a small block at a time
        return False
    if limits.least(of_cut).sum() <= _TRUSTED_BYTES:
        return False
    if whole.exact.all() and not limits.exceeded(whole):
        return False
    if not of_cut.exact.all():
        return True
    coarse = (limits.bytes(of_cut) > _DIVIDED_BYTES) & (of_cut.rows > 1)
    return limits.exceeded(of_cut) and bool(coarse.any())


def _divide(cut: Cut, sizes: Sizes, limits: ByteLimits) -> Iterator[Cut]:
    """A cut in as few as fit, each of whole stretches."""
    first, rows, size, offset = cut.first_row, 0, 0, cut.byte_offset
    if limits.token_bytes:
        sizes = _finer(sizes, limits)
    for count, more, start in zip(
        sizes.rows.tolist(), limits.bytes(sizes).tolist(), sizes.offsets.tolist(), strict=True
    ):
        if rows and size + more > _DIVIDED_BYTES:
            yield Cut(first, rows, offset)
            first, rows, size, offset = first + rows, 0, 0, start
        rows, size = rows + count, size + more
    yield Cut(first, rows, offset)


def _finer(sizes: Sizes, limits: ByteLimits) -> Sizes:
    """The stretches, those with too large results in equal ones; text can only be cut where the
    place in its file is known.
    """
    pieces = -(-limits.bytes(sizes) // _DIVIDED_BYTES)
    pieces = np.where(sizes.offsets >= 0, 1, np.clip(pieces, 1, np.maximum(1, sizes.rows)))
    of = np.repeat(np.arange(len(pieces)), pieces)
    rank = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first, last = (sizes.rows[of] * (rank + i) // pieces[of] for i in (0, 1))
    share = (last - first) / np.maximum(1, sizes.rows[of])
    size = np.ceil(sizes.bytes[of] * share[:, None]).astype(np.int64)
    return Sizes(sizes.columns, last - first, size, sizes.exact[of], sizes.offsets[of])
