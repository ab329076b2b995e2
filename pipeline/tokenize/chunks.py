"""Where a text is cut into chunks: between sentences, else between words, else between tokens.

A pure function of the text, its tokens and two numbers. The rules are our own and small, because
they are part of a job's space: a library that follows Unicode (ICU, 70 million characters a second
and exact) cuts elsewhere with each release, so that workers of two versions would differ; it also
ends a sentence at each line end, which in wrapped text is amid one.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.packing import Int64Array

# Increase it if a text is cut elsewhere: it is part of the space of jobs with chunks.
CHUNK_RULES = 1

# After a sentence: its mark, what closes with it, and white space or, in Chinese and Japanese,
# nothing. Not after one capital letter (an initial), nor before a small one. Or an empty line.
_CLOSING = "\"'”’»)\\]}）」』】"
_SENTENCE = re.compile(
    rf"(?<![.!?…؟۔।॥።])(?:(?<![\s.(\"'“‘«\[][A-ZÄÖÜÀ-ÝΑ-ΩА-Я])\.|[!?…؟۔।॥។])+[{_CLOSING}]*"
    rf"(?=\s+[^\sa-zß-öø-ÿα-ωа-я])|[。！？｡]+[{_CLOSING}]*|\n[ \t\r]*(?=\n)"
)
_LAST_SPACE = 0x3000
_IS_SPACE = np.array([chr(code).isspace() for code in range(_LAST_SPACE + 2)])  # the last: others

# Bytes of text for a token, mostly at least; a chunk is at least half full.
_BYTES_PER_TOKEN = 4
# More windows than these never hold one chunk.
_SHARED_BY = 4

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [first, stop) of a text, and its characters [start, end)."""

    first: int
    stop: int
    start: int
    end: int


class Boundaries:
    """The tokens of a text that a chunk may begin with, best ones first.

    Args:
        text: the text.
        starts: [T], the first character of each token, not decreasing.
        ends: [T], the character after each token.
    """

    def __init__(self, text: str, starts: Int64Array, ends: Int64Array) -> None:
        # A token within a character, or one that ends after the next begins, begins no chunk.
        clean = np.ones(len(starts), dtype=np.bool_)
        clean[1:] = starts[1:] >= np.maximum.accumulate(ends)[:-1]
        sentences = np.fromiter((match.end() for match in _SENTENCE.finditer(text)), dtype=np.int64)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        spaces = np.flatnonzero(_IS_SPACE[np.minimum(codes, _LAST_SPACE + 1)])
        self._kinds = [
            _at_or_after(sentences, starts, clean),
            _at_or_after(spaces, starts, clean),
            np.flatnonzero(clean),
        ]

    def last(self, first: int, stop: int) -> int:
        """The token that the chunk after a full one begins with: the last best in [first, stop]."""
        for tokens in self._kinds:
            at = int(np.searchsorted(tokens, stop, side="right")) - 1
            if at >= 0 and tokens[at] >= first:
                return int(tokens[at])
        return stop

    def first(self, first: int, stop: int) -> int:
        """The token that an overlap begins with: the first best in [first, stop]."""
        for tokens in self._kinds:
            at = int(np.searchsorted(tokens, first))
            if at < len(tokens) and tokens[at] <= stop:
                return int(tokens[at])
        return stop


def cut_chunks(
    text: str, starts: Int64Array, ends: Int64Array, size: int, overlap: int
) -> list[Chunk]:
    """Cover a text with chunks of at most `size` tokens; each token is in one at least.

    A chunk ends after the last sentence that ends in its second half, else after the last word.
    The next one begins with the first sentence, else the first word, of its last `overlap` tokens.

    Args:
        text: the text.
        starts: [T], the first character of each token, not decreasing.
        ends: [T], the character after each token.
        size: tokens, ≥ 1.
        overlap: tokens, at most half of `size`.

    Returns:
        One chunk or more, in order, of which `text[start:end]` is the text: it has no white space
        at its ends. Without a token, the text is one chunk.
    """
    count = len(starts)
    bounds: list[tuple[int, int]] = []
    first = stop = 0
    if count > size:
        boundaries = Boundaries(text, starts, ends)
        while first + size < count:
            half = first + (size + 1) // 2
            stop = boundaries.last(max(half, stop + 1), first + size)
            bounds.append((first, stop))
            first = boundaries.first(max(stop - overlap, first + 1), stop) if overlap else stop
    bounds.append((first, count))
    return [_chunk(text, starts, ends, *bound) for bound in bounds]


def _chunk(text: str, starts: Int64Array, ends: Int64Array, first: int, stop: int) -> Chunk:
    """The characters of a chunk: from its first token, or the text's start, to the next chunk."""
    start = int(starts[first]) if first else 0
    end = len(text)
    if stop < len(starts):
        # Where tokens share a character, both chunks have it.
        end = max(int(starts[stop]), int(ends[first:stop].max()))
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return Chunk(first, stop, start, max(start, end - len(inside) + len(inside.rstrip())))


def _at_or_after(positions: Int64Array, starts: Int64Array, clean: BoolArray) -> Int64Array:
    """The first clean token that begins at each position or after it, ascending."""
    tokens = np.unique(np.searchsorted(starts, positions))
    tokens = tokens[(tokens > 0) & (tokens < len(starts))]
    return tokens[clean[tokens]]


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of the rows of a block, K of them; see `Tokens`."""

    row_of: Int64Array  # [K], not decreasing
    starts: Int64Array  # [K] characters of the row's text
    ends: Int64Array  # [K]
    n_tokens: Int64Array  # [K]

    def counts(self, rows: int) -> Int64Array:
        """How many chunks each row has, [R]."""
        return np.bincount(self.row_of, minlength=rows)


def bytes_of_chunk(size: int, overlap: int) -> int:
    """Bytes of text that come with a new chunk at least, in most texts."""
    return max(1, _BYTES_PER_TOKEN * (size - overlap) // 2)


def macro_windows(
    chunks: list[Chunk], tokens: int, size: int
) -> list[tuple[int, int, list[Chunk]]]:
    """The sequences that a long text is encoded in, and the chunks that each gives the states of.

    A text of at most `size` tokens is one. Others overlap by about a quarter, and each chunk is in
    the one in which it is farthest from an edge that is none of the text.

    Returns:
        First token, token after the last, chunks; every chunk once, in order.
    """
    windows: list[tuple[int, int]] = []
    at = 0
    while at < len(chunks):
        # Back from the first chunk that is in none, by a quarter but never out of its own reach.
        first, back = chunks[at].first, 0
        if windows:
            back = min(size // 4, size - (chunks[at].stop - first))
        begin = max(0, first - back)
        end = min(tokens, begin + size)
        begin = max(0, end - size) if end == tokens else begin
        windows.append((begin, end))
        while at < len(chunks) and chunks[at].stop <= end:
            at += 1
    owned: list[list[Chunk]] = [[] for _ in windows]
    for chunk in chunks:
        owned[_farthest(chunk, windows, tokens)].append(chunk)
    return [(*window, own) for window, own in zip(windows, owned, strict=True) if own]


def _farthest(chunk: Chunk, windows: list[tuple[int, int]], tokens: int) -> int:
    """The window in which a chunk has most context on its poorer side; the first of equals."""

    def context(number: int) -> int:
        begin, end = windows[number]
        if chunk.first < begin or chunk.stop > end:
            return -1
        left = tokens if begin == 0 else chunk.first - begin
        right = tokens if end == tokens else end - chunk.stop
        return min(left, right)

    last = bisect.bisect_right(windows, chunk.first, key=lambda window: window[0])
    return max(range(max(0, last - _SHARED_BY), last), key=context)
