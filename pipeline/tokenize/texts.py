"""Texts → flat int32 token ids and offsets; applies and records truncation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.packing import Int32Array, Int64Array
from pipeline.spec import Truncate
from pipeline.tokenize.encodings import lost_tokens, spans_after
from pipeline.tokenize.ids import Ids, InvalidText, special_tokens, surrounded
from pipeline.tokenize.shorten import left_out, shorten
from pipeline.tokenize.tokens import Tokens, assemble
from pipeline.tokenize.words import Speller, spells_by_words

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

NULL_TEXT = "the text is null"
NO_TOKENS = "the text has no token for this model"


class TextTokenizer:
    """A tokenizer with one limit and one truncation policy; safe to share between threads.

    Args:
        tokenizer: owned by this class from here on, which sets its truncation and padding.
        max_length: the most tokens in a sequence, special tokens included.
        truncate: which end is cut, or `error` to refuse the row.
        ids: tokenizes as `tokenizer` does, and is used in its place where it can be.
        offsets: whether it is known where in a text its tokens are.

    Attributes:
        uses_ids: whether it is.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        truncate: Truncate,
        ids: Ids | None = None,
        *,
        offsets: bool = False,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._offsets = offsets
        self._room = text_room(tokenizer, max_length)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncate = truncate
        splits = splits_at_ascii_space(tokenizer)
        self._cut_first = truncate == "right" and splits
        self._special = special_tokens(tokenizer)
        self._ids = None if self._special is None else ids
        by_words = splits and self._special is not None and spells_by_words(tokenizer)
        if by_words and (ids is None or self._room == max_length):
            self._ids = Speller(tokenizer)
        if offsets:
            self._ids = None
        self.uses_ids = self._ids is not None and self._ids is ids
        if truncate != "error" and self._ids is None:
            tokenizer.enable_truncation(max_length, direction=truncate)

    def encode_column(self, column: pa.Array, prompt: str = "") -> Tokens:
        """Tokenize one text per row; `prompt` is put before each text.

        A null, a text that is not UTF-8, one without any token, and (with `error`) one over the
        limit become entries of `Tokens.errors` and do not affect the others.
        """
        if self._ids is not None:
            try:
                return self._by_ids(self._ids, column, prompt)
            except InvalidText:
                pass
        texts, invalid = text_values(column)
        tokens = self.encode(texts, prompt)
        tokens.errors.update(invalid)
        return tokens

    def encode(self, texts: Sequence[str | None], prompt: str = "") -> Tokens:
        """As `encode_column`."""
        if self._ids is not None:
            return self._by_ids(self._ids, pa.array(texts, pa.large_string()), prompt)
        errors = {row: NULL_TEXT for row, text in enumerate(texts) if text is None}
        rows = [row for row, text in enumerate(texts) if text is not None]
        given = [prompt + text for text in texts if text is not None]
        encodings = self._encode(given)
        for row, encoding in zip(rows, encodings, strict=True):
            if problem := self._problem(len(encoding)):
                errors[row] = problem
        valid = [
            (row, encoding)
            for row, encoding in zip(rows, encodings, strict=True)
            if row not in errors
        ]
        lost = np.zeros(len(texts), dtype=np.int32)
        special = self._max_length - self._room
        for row, encoding, text in zip(rows, encodings, given, strict=True):
            if encoding.overflowing:
                lost[row] = lost_tokens(encoding, special, self._left_out(text))
        spans = None
        if self._offsets:
            spans = spans_after([encoding for _, encoding in valid], len(prompt))
        return replace(_collect(len(texts), valid, errors), cut=lost, char_spans=spans)

    def _left_out(self, text: str) -> float:
        """Characters that were cut off before tokenizing, for each one that was not."""
        return left_out(text, self._max_length) if self._cut_first else 0.0

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._cut_first:
            texts = [shorten(text, self._max_length) for text in texts]
        if self._offsets:
            return self._tokenizer.encode_batch(texts)
        return self._tokenizer.encode_batch_fast(texts)

    def _by_ids(self, by: Ids, column: pa.Array, prompt: str) -> Tokens:
        texts = column.cast(pa.large_string())
        errors = {int(row): NULL_TEXT for row in np.flatnonzero(texts.is_null())}
        rows = np.flatnonzero(texts.is_valid())
        texts = texts.drop_null()
        if prompt:
            first = pa.scalar(prompt, pa.large_string())
            texts = pc.binary_join_element_wise(first, texts, pa.scalar("", pa.large_string()))
        ids, lengths = by.encode(texts, self._max_length if self._cut_first else 0)
        tokens = self._cut(len(column), rows, ids, lengths, errors)
        assert tokens.cut is not None
        for at in np.flatnonzero(tokens.cut[rows]) if self._cut_first else ():
            share = self._left_out(texts[int(at)].as_py())
            tokens.cut[rows[at]] += round(int(lengths[at]) * share)
        return tokens

    def _cut(
        self,
        count: int,
        rows: Int64Array,
        ids: Int32Array,
        lengths: Int64Array,
        errors: dict[int, str],
    ) -> Tokens:
        """Tokens of texts that are tokenized as a whole: rows [S], ids [T] and lengths [S]."""
        room, special = self._room, self._max_length - self._room
        over = lengths > room
        valid = np.ones(len(rows), dtype=np.bool_)
        for i in np.flatnonzero((lengths + special == 0) | over):
            if problem := self._problem(int(lengths[i]) + special):
                errors[int(rows[i])] = problem
                valid[i] = False
        if over.any() or not valid.all():
            ranks = np.arange(ids.shape[0]) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            first = np.where(over, lengths - room, 0) if self._truncate == "left" else 0 * lengths
            kept = ranks >= np.repeat(first, lengths)
            kept &= ranks < np.repeat(first + room, lengths)
            ids = ids[kept & np.repeat(valid, lengths)]
        sizes = np.minimum(lengths, room)[valid]
        if self._special is not None:
            ids = surrounded(ids, sizes, *self._special)
        found = assemble(count, rows[valid], sizes + special, ids, over[valid], errors)
        lost = np.zeros(count, dtype=np.int32)
        lost[rows[valid]] = np.maximum(lengths[valid] - room, 0)
        return replace(found, cut=lost)

    def _problem(self, size: int) -> str:
        if size == 0:
            return NO_TOKENS
        if self._truncate == "error" and size > self._max_length:
            return f"the text has {size} tokens, more than --max-length {self._max_length}"
        return ""


def text_room(tokenizer: Tokenizer, max_length: int, *, pair: bool = False) -> int:
    """Tokens that a sequence has left for text besides the special tokens.

    Raises:
        UsageError: there are none. `tokenizers` itself would not truncate at all then.
    """
    special = tokenizer.num_special_tokens_to_add(is_pair=pair)
    if max_length <= special:
        raise UsageError(
            f"--max-length {max_length} leaves no room for text besides the {special} special "
            "tokens of this model",
            hint=f"give {special + 1} or more",
        )
    return int(max_length - special)


def text_values(column: pa.Array) -> tuple[list[str | None], dict[int, str]]:
    """The texts of a string column, and row → error for those that are not valid UTF-8.

    Arrow and Parquet do not check the bytes of a string column; one invalid row must not affect
    its neighbours.
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
    """Whether the tokens before ASCII white space never depend on the text after it.

    True for BERT's WordPiece: its normalizer works character by character, and its pre-tokenizer
    splits at white space before any other step reads the text.
    """
    has_model = type(tokenizer.model).__name__ == "WordPiece"
    has_pre_tokenizer = type(tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"
    has_normalizer = tokenizer.normalizer is None or type(tokenizer.normalizer).__name__ in (
        "BertNormalizer",
        "Lowercase",
    )
    return has_model and has_pre_tokenizer and has_normalizer


def _collect(rows: int, valid: list[tuple[int, Encoding]], errors: dict[int, str]) -> Tokens:
    lengths = np.fromiter((len(e) for _, e in valid), dtype=np.int64, count=len(valid))
    flat = itertools.chain.from_iterable(encoding.ids for _, encoding in valid)
    ids = np.fromiter(flat, dtype=np.int32, count=int(lengths.sum()))
    row_of = np.fromiter((row for row, _ in valid), dtype=np.int64, count=len(valid))
    cut = np.fromiter((bool(e.overflowing) for _, e in valid), dtype=np.bool_, count=len(valid))
    return assemble(rows, row_of, lengths, ids, cut, errors)
