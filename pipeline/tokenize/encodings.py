"""What else an encoding says than ids: where its tokens are, and what truncation left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.packing import Int32Array, Int64Array

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# An encoding takes some 200 bytes a token: only so much of a text is tokenized at once.
_SECTION_CHARS = 1 << 18


def char_spans(encoding: Encoding) -> tuple[Int64Array, Int64Array]:
    """The first character of each token, not decreasing, and the one after its last, [T] each."""
    flat = itertools.chain.from_iterable(encoding.offsets)
    spans = np.fromiter(flat, dtype=np.int64, count=2 * len(encoding)).reshape(-1, 2)
    return np.maximum.accumulate(spans[:, 0]), spans[:, 1]


def spans_after(encodings: Sequence[Encoding], prompt: int) -> Int32Array:
    """The characters of all tokens [T, 2] in texts that follow a prompt of so many characters.

    -1 for special tokens, and for those of the prompt alone.
    """
    flat = itertools.chain.from_iterable(x for one in encodings for x in one.offsets)
    spans = np.fromiter(flat, dtype=np.int32).reshape(-1, 2) - prompt
    masks = itertools.chain.from_iterable(one.special_tokens_mask for one in encodings)
    special = np.fromiter(masks, dtype=np.bool_)
    before = (spans[:, 1] <= 0) & (prompt > 0)
    spans = np.maximum(spans, 0)
    spans[special | before] = -1
    return spans


def section_end(text: str, start: int) -> int:
    """Where to tokenize a long text in two: after a line, else after a space."""
    end = start + _SECTION_CHARS
    if end >= len(text):
        return len(text)
    for space in "\n ":
        at = text.rfind(space, start + _SECTION_CHARS // 2, end)
        if at >= 0:
            return at
    return end


def encode_sections(
    tokenizer: Tokenizer, text: str, at: int = 0
) -> Iterator[tuple[Int32Array, Int64Array, Int64Array]]:
    """The tokens of a text from a character on, without special ones, section by section.

    Yields:
        Ids, and what `char_spans` gives, as characters of the whole text.
    """
    while at < len(text):
        end = section_end(text, at)
        section = tokenizer.encode(text[at:end], add_special_tokens=False)
        starts, ends = char_spans(section)
        yield np.array(section.ids, dtype=np.int32), starts + at, ends + at
        at = end


def lost_tokens(encoding: Encoding, special: int = 0, left_out: float = 0.0) -> int:
    """Tokens of a text that truncation left out.

    Args:
        encoding: of the text.
        special: special tokens, which each part of a truncated text has.
        left_out: characters that were left out before, for each one that was not: their tokens are
            taken to be as many for a character.
    """
    parts = encoding.overflowing
    if not parts:
        return 0
    lost = sum(len(part) - special for part in parts)
    return lost + round((len(encoding) - special + lost) * left_out)


def lost_by_row(rows: int, row_of: Int64Array, lost: Int64Array) -> Int32Array:
    """What truncation left out of the sequences of each row, [R]."""
    return np.bincount(row_of, weights=lost, minlength=rows).astype(np.int32)
