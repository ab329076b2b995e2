"""Long texts as overlapping chunks, for tasks that read all of a text: tag.

The other tasks truncate (`pipeline.tokenize.texts`, `pairs`), or read chunks that each give a
result of their own (`chunk_texts`, `pair_chunks`).

A chunk overlaps the previous one by about a quarter of its size. It begins and ends between words
if a word boundary is within half of the overlap. The last chunk is as full as the others. Each
token's output is taken from the chunk in which the token is farthest from an edge: it has an eighth
of a chunk of context on either side, or at least a sixteenth where edges were moved to words.
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
from pipeline.tokenize.texts import NULL_TEXT, text_room
from pipeline.tokenize.tokens import Tokens, assemble

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Encodings with offsets take some 200 bytes per token: only as many texts at once as keep every
# core busy.
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Reads tokens [start, stop) and gives the outputs of tokens [first, last)."""

    start: int
    stop: int
    first: int
    last: int


def overlapping_chunks(
    tokens: int, size: int, word_starts: npt.NDArray[np.bool_]
) -> list[ReadChunk]:
    """Cover `tokens` tokens with chunks of at most `size`.

    Args:
        tokens: the number of tokens.
        size: the most tokens in a chunk, ≥ 1.
        word_starts: [tokens], whether a token begins a word.

    Returns:
        Chunks in order. Their [first, last) cover every token exactly once.
    """
    overlap = size // 4
    slack = overlap // 2
    bounds: list[tuple[int, int]] = []
    start = 0
    while start + size < tokens:
        stop = start + size
        begins = np.flatnonzero(word_starts[stop - slack : stop + 1])
        stop = stop - slack + int(begins[-1]) if begins.size else stop
        bounds.append((start, stop))
        start = min(stop - overlap, tokens - size)
        begins = np.flatnonzero(word_starts[start : start + slack + 1])
        start += int(begins[0]) if begins.size else 0
    bounds.append((start, tokens))
    middles = [(after[0] + before[1]) // 2 for before, after in itertools.pairwise(bounds)]
    owned = itertools.pairwise([0, *middles, tokens])
    return [ReadChunk(*read, *own) for read, own in zip(bounds, owned, strict=True)]


class LongTextTokenizer:
    """Texts to chunks of tokens with character spans; no text is ever truncated.

    Args:
        tokenizer: owned by this class from here on.
        max_length: the most tokens in a chunk, special tokens included.
        truncate: `error` refuses texts that do not fit into one chunk.

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
        """One sequence per chunk; `n_tokens` counts a text's tokens once, special ones included.

        A text without any token has no sequence and no error: there is nothing to tag.
        """
        errors = {row: NULL_TEXT for row, text in enumerate(texts) if text is None}
        n_tokens = np.zeros(len(texts), dtype=np.int32)
        rows: list[int] = []
        sequences: list[tuple[Int32Array, Int32Array]] = []
        for row, encoding in self._encodings(texts):
            size = len(encoding)
            if self._truncate == "error" and size > self._max_length:
                errors[row] = (
                    f"the text has {size} tokens, more than --max-length {self._max_length}"
                )
                continue
            n_tokens[row] = size
            chunks = self._chunks(encoding) if size else []
            sequences += chunks
            rows += [row] * len(chunks)
        tokens = assemble(
            len(texts),
            np.array(rows, dtype=np.int64),
            np.array([len(ids) for ids, _ in sequences], dtype=np.int64),
            np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in sequences)]),
            np.zeros(len(sequences), dtype=np.bool_),
            errors,
            char_spans=np.concatenate(
                [np.empty((0, 2), np.int32), *(char_spans for _, char_spans in sequences)]
            ),
        )
        return replace(tokens, n_tokens=n_tokens)

    def _encodings(self, texts: Sequence[str | None]) -> Iterator[tuple[int, Encoding]]:
        not_null = [row for row, text in enumerate(texts) if text is not None]
        for start in range(0, len(not_null), _TEXTS_AT_ONCE):
            rows = not_null[start : start + _TEXTS_AT_ONCE]
            encodings = self._tokenizer.encode_batch([texts[row] for row in rows])
            yield from zip(rows, encodings, strict=True)

    def _chunks(self, encoding: Encoding) -> list[tuple[Int32Array, Int32Array]]:
        """(token ids, character spans) of each chunk."""
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
            _chunk(ids, char_spans, begin, end, chunk)
            for chunk in overlapping_chunks(end - begin, self._size, starts)
        ]


def _chunk(
    ids: Int32Array, char_spans: Int32Array, begin: int, end: int, chunk: ReadChunk
) -> tuple[Int32Array, Int32Array]:
    """One chunk of the text [begin, end), with the special tokens that surround the whole text."""
    read = slice(begin + chunk.start, begin + chunk.stop)
    owned = slice(begin + chunk.first, begin + chunk.last)
    kept = np.full_like(char_spans, -1)
    kept[owned] = char_spans[owned]
    return (
        np.concatenate([ids[:begin], ids[read], ids[end:]]),
        np.concatenate([char_spans[:begin], kept[read], char_spans[end:]]),
    )
