"""Texts longer than a model: overlapping windows of tokens, each token read from one of them.

A window overlaps the one before by about a quarter of its size, begins and ends between words
where a word ends within half of that, and the last one is as full as the others. Every token is
taken from the window in which it is farthest from a cut: it was read with an eighth of a window of
context on either side, or a sixteenth at least where windows were moved to words.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.packing import Int32Array
from pipeline.spec import Truncate
from pipeline.tokenize.texts import NULL_TEXT, Tokens, assemble, text_room

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Encodings with offsets take some 200 bytes a token: no more texts at once than needed to keep
# every core at work.
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Chunk:
    """One window: it reads tokens [start, stop) and answers for [first, last)."""

    start: int
    stop: int
    first: int
    last: int


def overlapping_chunks(tokens: int, size: int, word_starts: npt.NDArray[np.bool_]) -> list[Chunk]:
    """Cover `tokens` by windows of at most `size`.

    Args:
        tokens: how many there are.
        size: tokens a window may hold, ≥ 1.
        word_starts: [tokens], whether a token begins a word.

    Returns:
        Windows in order. Their [first, last) hold every token exactly once.
    """
    overlap = size // 4
    slack = overlap // 2
    char_spans: list[tuple[int, int]] = []
    start = 0
    while start + size < tokens:
        stop = start + size
        begins = np.flatnonzero(word_starts[stop - slack : stop + 1])
        stop = stop - slack + int(begins[-1]) if begins.size else stop
        char_spans.append((start, stop))
        start = min(stop - overlap, tokens - size)
        begins = np.flatnonzero(word_starts[start : start + slack + 1])
        start += int(begins[0]) if begins.size else 0
    char_spans.append((start, tokens))
    middles = [(after[0] + before[1]) // 2 for before, after in itertools.pairwise(char_spans)]
    owned = itertools.pairwise([0, *middles, tokens])
    return [Chunk(*span, *own) for span, own in zip(char_spans, owned, strict=True)]


class LongTextTokenizer:
    """Texts to windows of tokens with character spans; nothing is ever cut off.

    Args:
        tokenizer: this class takes it over.
        max_length: tokens a window may have, special tokens included.
        truncate: `error` refuses texts that do not fit into one window.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, truncate: Truncate) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._size = text_room(tokenizer, max_length)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncate = truncate

    def encode(self, texts: Sequence[str | None]) -> Tokens:
        """One sequence a window; `n_tokens` counts a text's tokens once, special ones included.

        A text without any token has no sequence and no error: there is nothing in it.
        """
        errors = {row: NULL_TEXT for row, text in enumerate(texts) if text is None}
        n_tokens = np.zeros(len(texts), dtype=np.int32)
        rows: list[int] = []
        parts: list[tuple[Int32Array, Int32Array]] = []
        for row, encoding in self._encodings(texts):
            size = len(encoding)
            if self._truncate == "error" and size > self._max_length:
                errors[row] = (
                    f"the text has {size} tokens, more than --max-length {self._max_length}"
                )
                continue
            n_tokens[row] = size
            chunks = self._chunks(encoding) if size else []
            parts += chunks
            rows += [row] * len(chunks)
        tokens = assemble(
            len(texts),
            np.array(rows, dtype=np.int64),
            np.array([len(ids) for ids, _ in parts], dtype=np.int64),
            np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in parts)]),
            np.zeros(len(parts), dtype=np.bool_),
            errors,
            char_spans=np.concatenate(
                [np.empty((0, 2), np.int32), *(char_spans for _, char_spans in parts)]
            ),
        )
        return replace(tokens, n_tokens=n_tokens)

    def _encodings(self, texts: Sequence[str | None]) -> Iterator[tuple[int, Encoding]]:
        wanted = [row for row, text in enumerate(texts) if text is not None]
        for start in range(0, len(wanted), _TEXTS_AT_ONCE):
            rows = wanted[start : start + _TEXTS_AT_ONCE]
            encodings = self._tokenizer.encode_batch([texts[row] for row in rows])
            yield from zip(rows, encodings, strict=True)

    def _chunks(self, encoding: Encoding) -> list[tuple[Int32Array, Int32Array]]:
        """(token ids, character spans) of each window."""
        ids = np.array(encoding.ids, dtype=np.int32)
        flat = itertools.chain.from_iterable(encoding.offsets)
        char_spans = np.fromiter(flat, dtype=np.int32, count=2 * len(ids)).reshape(-1, 2)
        special = np.array(encoding.special_tokens_mask, dtype=np.bool_)
        char_spans[special] = -1
        if len(ids) <= self._max_length:
            return [(ids, char_spans)]
        text = np.flatnonzero(~special)
        begin, end = int(text[0]), int(text[-1]) + 1
        words = encoding.word_ids[begin:end]
        starts = np.array([a != b for a, b in zip([None, *words], words, strict=False)])
        return [
            _chunk(ids, char_spans, begin, end, each)
            for each in overlapping_chunks(end - begin, self._size, starts)
        ]


def _chunk(
    ids: Int32Array, char_spans: Int32Array, begin: int, end: int, chunk: Chunk
) -> tuple[Int32Array, Int32Array]:
    """One window of text [begin, end), between the special tokens that stood around the whole."""
    read = slice(begin + chunk.start, begin + chunk.stop)
    owned = slice(begin + chunk.first, begin + chunk.last)
    kept = np.full_like(char_spans, -1)
    kept[owned] = char_spans[owned]
    return (
        np.concatenate([ids[:begin], ids[read], ids[end:]]),
        np.concatenate([char_spans[:begin], kept[read], char_spans[end:]]),
    )
