"""What turns texts into token ids as arrays, and what the special tokens around them are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.packing import Int32Array, Int64Array
from pipeline.tokenize.shorten import far_over, shorten

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Texts on which special tokens are looked at: of one token, none, several, and of unknown ones.
_PROBES = ("a", "", "Two words, 1.5 ", "\N{EGYPTIAN HIEROGLYPH A001}")


class InvalidText(Exception):
    """A text is not UTF-8."""


class Ids(Protocol):
    """Tokenizes texts as a whole: without special tokens around them, and not truncated."""

    def encode(self, texts: pa.LargeStringArray, shorten: int = 0) -> tuple[Int32Array, Int64Array]:
        """Token ids of all texts in a row [T], and the number of tokens of each [S].

        Args:
            texts: [S], none of them null.
            shorten: of a text with more tokens, at least one more is needed; 0 for all of them.

        Raises:
            InvalidText: a text is not UTF-8.
        """
        ...


def special_tokens(tokenizer: Tokenizer) -> tuple[Int32Array, Int32Array] | None:
    """The ids before and after every single text; None if something else is done to texts.

    The tokenizer must not truncate.
    """
    text = [i for i, one in enumerate(tokenizer.encode(_PROBES[0]).special_tokens_mask) if not one]
    if not text:
        return None
    ids = tokenizer.encode(_PROBES[0]).ids
    before, after = ids[: text[0]], ids[text[-1] + 1 :]
    if len(before) + len(after) != tokenizer.num_special_tokens_to_add(is_pair=False):
        return None
    for probe in _PROBES:
        bare = tokenizer.encode(probe, add_special_tokens=False).ids
        if tokenizer.encode(probe).ids != [*before, *bare, *after]:
            return None
    return np.array(before, dtype=np.int32), np.array(after, dtype=np.int32)


def surrounded(
    ids: Int32Array, lengths: Int64Array, before: Int32Array, after: Int32Array
) -> Int32Array:
    """Sequences of the given lengths [S] in a row [T], each with ids before and after it."""
    if not before.size and not after.size:
        return ids
    ends = np.cumsum(lengths + before.size + after.size)
    whole = np.empty(int(ends[-1]) if ends.size else 0, dtype=np.int32)
    is_text = np.ones(whole.shape, dtype=np.bool_)
    firsts = ends - lengths - before.size - after.size
    for places, special in (
        (firsts[:, None] + np.arange(before.size), before),
        (ends[:, None] - after.size + np.arange(after.size), after),
    ):
        whole[places] = special
        is_text[places] = False
    whole[is_text] = ids
    return whole


def shortened(texts: pa.LargeStringArray, limit: int) -> pa.LargeStringArray:
    """The texts, those far over a limit cut as `shorten` does it; the limit 0 cuts none.

    Raises:
        UnicodeDecodeError: a text that is far over is not UTF-8.
    """
    is_far = np.diff(utf8(texts)[0]) > far_over(limit)
    if not limit or not is_far.any():
        return texts
    cut = [shorten(text, limit) for text in texts.filter(is_far).to_pylist()]
    return pc.replace_with_mask(texts, is_far, pa.array(cut, pa.large_string()))


def utf8(texts: pa.LargeStringArray) -> tuple[Int64Array, npt.NDArray[np.uint8]]:
    """The bytes of all texts in a row, and where each begins, and the last ends, from 0 on."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64, count=len(texts) + 1, offset=8 * texts.offset)
    flat = np.frombuffer(data or b"", dtype=np.uint8)
    return bounds - bounds[0], flat[bounds[0] : bounds[-1]]
