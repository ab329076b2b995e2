"""Texts far over a limit are cut before they are tokenized. Imports nothing else of ours."""

from __future__ import annotations

import itertools
import re

# Characters that WordPiece turns into at least one token, up to the white space that ends their
# word. A match starts at the first ASCII letter or digit, so that scanning is linear.
_WORD = re.compile(r"[A-Za-z0-9][^ \t\n\r]*[ \t\n\r]")
# Up to this many characters per token of the limit, cutting before tokenizing does not pay.
_LONG_TEXT_CHARS_PER_TOKEN = 12


def far_over(max_length: int) -> int:
    """A text of more characters, or bytes, may be worth cutting."""
    return max_length * _LONG_TEXT_CHARS_PER_TOKEN


def shorten(text: str, max_length: int) -> str:
    """Cut a text far over the limit after `max_length` + 1 words, each at least one token.

    The cost of tokenizing grows with the whole text even if only its start is kept. One word more
    than the limit is kept, so that the row still counts as truncated. The result is exact if
    `texts.splits_at_ascii_space` holds.
    """
    if len(text) <= far_over(max_length):
        return text
    last = next(itertools.islice(_WORD.finditer(text), max_length, None), None)
    return text if last is None else text[: last.end()]


def left_out(text: str, max_length: int) -> float:
    """Characters that `shorten` cuts off a text, for each one that it keeps."""
    return len(text) / len(shorten(text, max_length)) - 1 if text else 0.0
