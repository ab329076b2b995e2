"""Text to flat int32 token ids and offsets, with the truncation policy and its ledger."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.packing import Int8Array, Int32Array, Int64Array
from pipeline.spec import Truncate

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

NULL_TEXT = "the text is null"
NO_TOKENS = "the text has no token for this model"

# A run of characters that WordPiece turns into at least one token, up to the white space that
# ends its word. It starts at the first ASCII letter or digit, so that scanning is linear.
_WORD = re.compile(r"[A-Za-z0-9][^ \t\n\r]*[ \t\n\r]")
# Below this many characters per token of the limit, cutting first costs more than it saves.
_LONG_TEXT_CHARS_PER_TOKEN = 12


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokenized rows of a window: R rows, S sequences (none or many a row), T tokens."""

    ids: Int32Array  # [T]
    offsets: Int64Array  # [S + 1]
    row_of: Int64Array  # [S], the row each sequence belongs to, not decreasing
    n_tokens: Int32Array  # [R], tokens that the model reads for the row
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]]  # [R]
    errors: dict[int, str] = field(default_factory=dict)  # row → why it has no sequence
    type_ids: Int8Array | None = None  # [T]
    # [T, 2], first and last + 1 character of the row's text, where a task asks for them; -1 for a
    # token whose output stands for no text: special ones, and repeated ones but for one copy.
    char_spans: Int32Array | None = None

    @property
    def lengths(self) -> Int64Array:
        """Tokens per sequence, [S]."""
        return np.diff(self.offsets)

    @property
    def token_rows(self) -> Int64Array:
        """The row each token belongs to, [T]."""
        return np.repeat(self.row_of, self.lengths)

    @property
    def rows(self) -> int:
        return int(self.n_tokens.shape[0])


class TextTokenizer:
    """A tokenizer with one limit and one truncation policy; safe to share between threads.

    Args:
        tokenizer: with no truncation or padding of its own. This class takes it over.
        max_length: tokens a sequence may have, special tokens included.
        truncate: which end is cut, or `error` to refuse the row.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, truncate: Truncate) -> None:
        text_room(tokenizer, max_length)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncate = truncate
        self._cut_first = truncate == "right" and splits_at_ascii_space(tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if truncate != "error":
            tokenizer.enable_truncation(max_length, direction=truncate)

    def encode(self, texts: Sequence[str | None], prompt: str = "") -> Tokens:
        """Tokenize one text a row; `prompt` is put before each text.

        A null, a text without any token, and (under `error`) a text over the limit become
        entries of `Tokens.errors`; they never stop the others.
        """
        errors = {row: NULL_TEXT for row, text in enumerate(texts) if text is None}
        kept = [prompt + text for text in texts if text is not None]
        rows = [row for row, text in enumerate(texts) if text is not None]
        encodings = self._encode(kept)
        for row, encoding in zip(rows, encodings, strict=True):
            if problem := self._problem(encoding):
                errors[row] = problem
        fine = [
            (row, encoding)
            for row, encoding in zip(rows, encodings, strict=True)
            if row not in errors
        ]
        return _collect(len(texts), fine, errors)

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._cut_first:
            texts = [shorten(text, self._max_length) for text in texts]
        return self._tokenizer.encode_batch_fast(texts)

    def _problem(self, encoding: Encoding) -> str:
        size = len(encoding)
        if size == 0:
            return NO_TOKENS
        if self._truncate == "error" and size > self._max_length:
            return f"the text has {size} tokens, more than --max-length {self._max_length}"
        return ""


def text_room(tokenizer: Tokenizer, max_length: int, *, pair: bool = False) -> int:
    """Tokens that a sequence has left for text, beside the special tokens.

    Raises:
        UsageError: none. `tokenizers` itself would not truncate at all then.
    """
    special = tokenizer.num_special_tokens_to_add(is_pair=pair)
    if max_length <= special:
        raise UsageError(
            f"--max-length {max_length} leaves no room for text beside the {special} special "
            "tokens of this model",
            hint=f"give {special + 1} or more",
        )
    return int(max_length - special)


def text_values(column: pa.Array) -> tuple[list[str | None], dict[int, str]]:
    """The texts of a string column, and why those that are not valid UTF-8 were left out.

    Arrow and Parquet do not check what a string column holds; one bad row must not take its
    neighbours with it.
    """
    try:
        return column.to_pylist(), {}
    except UnicodeDecodeError:
        pass
    texts: list[str | None] = []
    errors: dict[int, str] = {}
    for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            texts.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append(None)
            errors[row] = f"the text is not valid UTF-8: {error.reason} at byte {error.start}"
    return texts, errors


def splits_at_ascii_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokens before an ASCII white space never depend on what follows it.

    True of BERT's WordPiece: its normalizer works character by character and its
    pre-tokenizer splits at white space before anything else looks at the text.
    """
    model = type(tokenizer.model).__name__ == "WordPiece"
    before = type(tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"
    normal = tokenizer.normalizer is None or type(tokenizer.normalizer).__name__ in (
        "BertNormalizer",
        "Lowercase",
    )
    return model and before and normal


def shorten(text: str, max_length: int) -> str:
    """Cut a text far over the limit behind `max_length` + 1 words, each at least one token.

    The cost of tokenizing grows with the whole text even where all but the start is thrown
    away. One word more than the limit is kept, so that the row is still seen to be truncated.
    Exact where `splits_at_ascii_space` holds.
    """
    if len(text) <= max_length * _LONG_TEXT_CHARS_PER_TOKEN:
        return text
    last = next(itertools.islice(_WORD.finditer(text), max_length, None), None)
    return text if last is None else text[: last.end()]


def assemble(
    rows: int,
    row_of: Int64Array,
    lengths: Int64Array,
    ids: Int32Array,
    truncated: npt.NDArray[np.bool_],
    errors: dict[int, str],
    *,
    type_ids: Int8Array | None = None,
    char_spans: Int32Array | None = None,
) -> Tokens:
    """Tokens from sequences: row [S], length [S] and whether it was cut [S], and flat ids [T]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    n_tokens = np.bincount(row_of, weights=lengths, minlength=rows).astype(np.int32)
    cut = np.zeros(rows, dtype=np.bool_)
    cut[row_of[truncated]] = True
    return Tokens(ids, offsets, row_of, n_tokens, cut, errors, type_ids, char_spans)


def _collect(rows: int, fine: list[tuple[int, Encoding]], errors: dict[int, str]) -> Tokens:
    lengths = np.fromiter((len(e) for _, e in fine), dtype=np.int64, count=len(fine))
    flat = itertools.chain.from_iterable(encoding.ids for _, encoding in fine)
    ids = np.fromiter(flat, dtype=np.int32, count=int(lengths.sum()))
    row_of = np.fromiter((row for row, _ in fine), dtype=np.int64, count=len(fine))
    cut = np.fromiter((bool(e.overflowing) for _, e in fine), dtype=np.bool_, count=len(fine))
    return assemble(rows, row_of, lengths, ids, cut, errors)
