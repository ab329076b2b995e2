"""Texts → a token sequence for each chunk, or sequences whose token states chunks are pooled from.

A chunk's tokens are those of the whole text, with the prompt and the special tokens of the text
around each. A text that fits into one chunk is the sequence that it would be without chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UsageError
from pipeline.packing import Int32Array, Int64Array, Spans
from pipeline.tokenize.chunks import Chunk, Chunks, cut_chunks, macro_windows
from pipeline.tokenize.encodings import char_spans, encode_sections, section_end
from pipeline.tokenize.texts import NO_TOKENS, NULL_TEXT
from pipeline.tokenize.tokens import Tokens, assemble

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters that are tokenized at once, and one section more.
_CHARS_AT_ONCE = 1 << 20
_NO_IDS: Int32Array = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Text:
    """A tokenized text: what stands before and after each chunk, and its own tokens."""

    before: Int32Array  # special tokens and prompt
    after: Int32Array
    ids: Int32Array  # [T]
    starts: Int64Array  # [T] characters, without the prompt
    ends: Int64Array  # [T]


class ChunkTokenizer:
    """Texts to chunks; safe to share between threads.

    Args:
        tokenizer: owned by this class from here on, which sets its truncation and padding.
        chunk_tokens: the most tokens in a chunk, prompt and special tokens included.
        overlap: tokens that a chunk may share with the one before.
        window: the most tokens in a sequence, where chunks are pooled from the states of longer
            sequences; None where each chunk is a sequence.
        prompt: put before each chunk; with `window`, before each sequence.
        skipped: leading tokens of a sequence that no chunk is pooled from: a prompt's.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chunk_tokens: int,
        overlap: int,
        *,
        window: int | None = None,
        prompt: str = "",
        skipped: int = 0,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._chunk_tokens = chunk_tokens
        self._overlap = overlap
        self._window = window
        self._prompt = prompt
        self._skipped = skipped
        # Beside the text; a tokenizer joins no prompt and text to more tokens than it has for both.
        around = len(tokenizer.encode(prompt))
        if chunk_tokens <= around + overlap:
            besides = f", and --chunk-overlap {overlap}" if overlap else ""
            raise UsageError(
                f"--chunk-tokens {chunk_tokens} leaves no room for text besides the {around} "
                f"tokens of the prompt and the model{besides}",
                hint=f"give {around + 2 * overlap + 1} or more",
            )

    def encode(self, texts: Sequence[str | None]) -> Tokens:
        """One sequence per chunk, or per window; `n_tokens` counts the tokens of all chunks."""
        errors = {row: NULL_TEXT for row, text in enumerate(texts) if text is None}
        built = _Built()
        for row, text, encoding in self._encodings(texts):
            tokens = self._text(text, encoding)
            if not (len(tokens.before) or len(tokens.ids)):
                errors[row] = NO_TOKENS
                continue
            self._add(built, row, text, tokens)
        return built.tokens(len(texts), errors, spans=self._window is not None)

    def _encodings(self, texts: Sequence[str | None]) -> Iterator[tuple[int, str, Encoding]]:
        """Row, text, and the encoding of its first section, with prompt and special tokens."""
        for some in _at_once(texts):
            firsts = [self._prompt + text[: section_end(text, 0)] for _, text in some]
            encodings = self._tokenizer.encode_batch(firsts)
            for (row, text), encoding in zip(some, encodings, strict=True):
                yield row, text, encoding

    def _text(self, text: str, encoding: Encoding) -> _Text:
        """The tokens of a text, given the encoding of its first section."""
        begins, at = 0, section_end(text, 0)
        while not (own := _own_tokens(encoding)).size and at < len(text):
            # Blank so far: what stands around the text is only seen beside tokens of its own.
            begins, at = at, section_end(text, at)
            encoding = self._tokenizer.encode(self._prompt + text[begins:at])
        ids = np.array(encoding.ids, dtype=np.int32)
        if not own.size:
            empty = np.zeros(0, dtype=np.int64)
            return _Text(ids, _NO_IDS, _NO_IDS, empty, empty)
        begin, stop = int(own[0]), int(own[-1]) + 1
        starts, ends = char_spans(encoding)
        starts, ends = starts - len(self._prompt), ends - len(self._prompt)
        while begin < stop and ends[begin] <= 0 and self._prompt:
            begin += 1
        starts = np.maximum(starts[begin:stop], 0) + begins
        first = ids[begin:stop], starts, ends[begin:stop] + begins
        sections = zip(first, *encode_sections(self._tokenizer, text, at), strict=True)
        joined = (np.concatenate(arrays) for arrays in sections)
        return _Text(ids[:begin], ids[stop:], *joined)

    def _add(self, built: _Built, row: int, text: str, tokens: _Text) -> None:
        around = len(tokens.before) + len(tokens.after)
        size = max(1, self._chunk_tokens - around)
        chunks = cut_chunks(text, tokens.starts, tokens.ends, size, self._overlap)
        if self._window is None:
            for chunk in chunks:
                ids = tokens.ids[chunk.first : chunk.stop]
                built.chunk(row, chunk, len(ids) + around)
                built.sequence(row, [tokens.before, ids, tokens.after])
            return
        for first, stop, owned in macro_windows(chunks, len(tokens.ids), self._window - around):
            sequence = [tokens.before, tokens.ids[first:stop], tokens.after]
            built.sequence(row, sequence)
            for chunk in owned:
                built.pooled(row, chunk, self._span(tokens, chunk, first))

    def _span(self, tokens: _Text, chunk: Chunk, first: int) -> tuple[int, int]:
        """The tokens of a sequence that a chunk is pooled from, as first and count.

        The first chunk has the special tokens and the prompt before the text too, and the last one
        those after it, so that a text of one chunk has the vector that it has without chunks.
        """
        before = len(tokens.before)
        begin = before + chunk.first - first
        end = before + chunk.stop - first
        if chunk.first == 0:
            begin = min(self._skipped, begin)
        if chunk.stop == len(tokens.ids):
            end += len(tokens.after)
        return begin, end - begin


class _Built:
    """Sequences and chunks as they come."""

    def __init__(self) -> None:
        self._ids: list[Int32Array] = []
        self._row_of: list[int] = []
        self._lengths: list[int] = []
        self._chunks: list[tuple[int, int, int, int]] = []  # row, start, end, tokens
        self._spans: list[tuple[int, int, int]] = []  # sequence, first in it, count

    def sequence(self, row: int, arrays: Sequence[Int32Array]) -> None:
        self._ids += arrays
        self._row_of.append(row)
        self._lengths.append(sum(map(len, arrays)))

    def chunk(self, row: int, chunk: Chunk, n_tokens: int) -> None:
        self._chunks.append((row, chunk.start, chunk.end, n_tokens))

    def pooled(self, row: int, chunk: Chunk, span: tuple[int, int]) -> None:
        """A chunk of the last sequence."""
        self.chunk(row, chunk, span[1])
        self._spans.append((len(self._lengths) - 1, *span))

    def tokens(self, rows: int, errors: dict[int, str], *, spans: bool) -> Tokens:
        row_of = np.array(self._row_of, dtype=np.int64)
        tokens = assemble(
            rows,
            row_of,
            np.array(self._lengths, dtype=np.int64),
            np.concatenate([_NO_IDS, *self._ids]),
            np.zeros(len(row_of), dtype=np.bool_),
            errors,
        )
        of, starts, ends, sizes = np.array(self._chunks, dtype=np.int64).reshape(-1, 4).T
        found = replace(
            tokens,
            chunks=Chunks(of, starts, ends, sizes),
            n_tokens=np.bincount(of, weights=sizes, minlength=rows).astype(np.int32),
        )
        if not spans:
            return found
        sequence, first, count = np.array(self._spans, dtype=np.int64).reshape(-1, 3).T
        bounds = np.searchsorted(sequence, np.arange(len(row_of) + 1))
        return replace(found, spans=Spans(tokens.offsets[sequence] + first, count, bounds))


def _own_tokens(encoding: Encoding) -> Int64Array:
    """The places of the tokens that are no special ones."""
    return np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)


def _at_once(texts: Sequence[str | None]) -> Iterator[list[tuple[int, str]]]:
    """The texts that are not null, with their rows, in groups to tokenize at once."""
    some: list[tuple[int, str]] = []
    size = 0
    for row, text in enumerate(texts):
        if text is None:
            continue
        some.append((row, text))
        size += section_end(text, 0)
        if size >= _CHARS_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
