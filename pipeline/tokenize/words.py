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
        self._alone = _table(_PUNCTUATION - added)
        self._known: dict[str, bytes] = {}  # word → its ids, int32

    def encode(self, texts: pa.LargeStringArray, shorten: int = 0) -> tuple[Int32Array, Int64Array]:
        """As of `ids.Ids`."""
        try:
            words, words_before = _words(shortened(texts, shorten), self._alone)
            encoded = words.dictionary_encode()
            spelled = self._spell(encoded.dictionary.to_pylist())
        except UnicodeDecodeError as error:
            raise InvalidText from error
        ids = np.frombuffer(b"".join(spelled), dtype=np.int32)
        sizes = np.fromiter(map(len, spelled), dtype=np.int64, count=len(spelled)) // 4
        starts = np.cumsum(sizes) - sizes
        word = encoded.indices.to_numpy()  # of each word of the texts, which one it is
        ends = np.cumsum(sizes[word])
        # Of each token, where it stands in `ids`: the start of its word there plus its rank.
        index = np.repeat(starts[word] - ends + sizes[word], sizes[word])
        index += np.arange(index.shape[0])
        return ids[index], np.diff(np.concatenate([[0], ends])[words_before])

    def _spell(self, words: list[str]) -> list[bytes]:
        """The ids of different words."""
        known = self._known  # another thread may begin a new one
        new = [word for word in words if word not in known]
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        found = {w: array("i", e.ids).tobytes() for w, e in zip(new, encodings, strict=True)}
        ids = [found[word] if word in found else known[word] for word in words]
        known.update((word, one) for word, one in found.items() if len(word) <= _LONGEST)
        if len(known) > _REMEMBERED:
            self._known = {}
        return ids


def _table(characters: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Whether a byte is one of some ASCII characters, [256]."""
    table = np.zeros(256, dtype=np.bool_)
    table[[ord(one) for one in characters]] = True
    return table


def _words(
    texts: pa.LargeStringArray, alone: npt.NDArray[np.bool_]
) -> tuple[pa.LargeStringArray, Int64Array]:
    """The words of all texts in a row, each with the space after it; and the number of words before
    each text, and before the end.
    """
    offsets, data = utf8(texts)
    is_last = _ENDS[data]  # bytes that end a word
    is_alone = alone[data]
    is_last |= is_alone
    is_last[:-1] |= is_alone[1:]
    is_last[offsets[offsets > 0] - 1] = True
    bounds = np.concatenate([[0], np.flatnonzero(is_last) + 1])
    words = pa.LargeStringArray.from_buffers(
        len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data)
    )
    return words, np.searchsorted(bounds, offsets)


_ENDS = _table(_SPACES)
