"""Texts → token ids by their words: a word is tokenized once, however often it occurs.

A tokenizer needs a microsecond for every token of a text, a lookup a few nanoseconds. Where nothing
else is computed, as with a table of token vectors, that is the time of the job.
"""

from __future__ import annotations

import string
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.packing import Int32Array, Int64Array
from pipeline.tokenize.ids import InvalidText, shortened, utf8

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# At these, WordPiece's tokenizer ends a word, whatever stands before and after. Not at \v and \f,
# which BERT's normalizer removes.
_SPACES = " \t\n\r"
# So it does before and after these, which are words of their own, unless an added token has them
# in it. Without "_", which `single_word` of an added token takes for a letter.
_PUNCTUATION = set(string.punctuation) - {"_"}
# Words that are remembered, some 200 bytes each; a word of more characters occurs once.
_REMEMBERED = 500_000
_LONGEST = 40
# Marks of a byte: a word ends with it, or begins with it.
_LAST, _FIRST = 1, 2


def spells_by_words(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of its words in a row, where words end at ASCII spaces.

    Special tokens around the text aside. The tokenizer must be known to split there, see
    `texts.splits_at_ascii_space`.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    return not any(space in token.content for token in added for space in _SPACES)


class Speller:
    """Tokenizes texts by their words, and remembers these; safe to share between threads.

    Args:
        tokenizer: for which `spells_by_words` holds; it truncates nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = {c for t in tokenizer.get_added_tokens_decoder().values() for c in t.content}
        self._marks = _marks(_PUNCTUATION - added)
        self._known: dict[str, bytes] = {}  # word → its ids, int32

    def encode(self, texts: pa.LargeStringArray, shorten: int = 0) -> tuple[Int32Array, Int64Array]:
        """As of `ids.Ids`."""
        try:
            words, words_before = _words(shortened(texts, shorten), self._marks)
            spelled = self._spell(words.dictionary.to_pylist())
        except UnicodeDecodeError as error:
            raise InvalidText from error
        ends, ids = utf8(pa.array(spelled, pa.large_binary()).take(words.indices))
        return ids.view(np.int32), np.diff(ends[words_before]) // 4

    def _spell(self, words: list[str]) -> list[bytes | None]:
        """The ids of different words, int32; each is there."""
        known = self._known  # another thread may begin a new one
        ids = list(map(known.get, words))
        new = [number for number, one in enumerate(ids) if one is None]
        encodings = self._tokenizer.encode_batch_fast(
            [words[number] for number in new], add_special_tokens=False
        )
        for number, encoding in zip(new, encodings, strict=True):
            ids[number] = found = array("i", encoding.ids).tobytes()
            if len(words[number]) <= _LONGEST:
                known[words[number]] = found
        if len(known) > _REMEMBERED:
            self._known = {}
        return ids


def _marks(alone: Iterable[str]) -> npt.NDArray[np.uint8]:
    """What a byte is at the end and the beginning of, [256]."""
    marks = np.zeros(256, dtype=np.uint8)
    marks[[ord(one) for one in _SPACES]] = _LAST
    marks[[ord(one) for one in alone]] = _FIRST | _LAST
    return marks


def _words(
    texts: pa.LargeStringArray, marks: npt.NDArray[np.uint8]
) -> tuple[pa.DictionaryArray, Int64Array]:
    """The words of all texts in a row, each with the space after it; and the number of words before
    each text, and before the end.
    """
    offsets, data = utf8(texts)
    marked = marks[data]
    begins = np.zeros(len(data) + 1, dtype=np.bool_)
    begins[1:] = marked & _LAST
    begins[:-1] |= marked >= _FIRST
    begins[offsets] = True
    bounds = np.flatnonzero(begins)
    words = pa.LargeStringArray.from_buffers(
        len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data)
    )
    return words.dictionary_encode(), np.searchsorted(bounds, offsets)
