"""Queries and documents → token sequences of pairs. Documents are truncated, never queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from pipeline.errors import CheckpointError
from pipeline.packing import Int8Array, Int32Array, Int64Array
from pipeline.spec import Truncate
from pipeline.tokenize.encodings import lost_by_row
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.shorten import left_out, shorten
from pipeline.tokenize.texts import NO_TOKENS, splits_at_ascii_space, text_room
from pipeline.tokenize.tokens import Tokens, assemble
from pipeline.tokenize.words import Speller, spells_by_words

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """Consecutive special tokens of a pair, with their types."""

    ids: Int32Array
    types: Int8Array

    @classmethod
    def of(cls, encoding: Encoding, start: int, stop: int) -> Self:
        return cls(
            np.array(encoding.ids[start:stop], dtype=np.int32),
            np.array(encoding.type_ids[start:stop], dtype=np.int8),
        )


class _Template:
    """The special tokens that a tokenizer puts around and between two texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the template from a sample pair.

        Raises:
            CheckpointError: the second text does not come after the first.
        """
        pair = tokenizer.encode("a", "b")
        first = [i for i, text in enumerate(pair.sequence_ids) if text == 0]
        second = [i for i, text in enumerate(pair.sequence_ids) if text == 1]
        if not first or not second or first[-1] > second[0]:
            raise CheckpointError(
                "the tokenizer does not put the second text of a pair after the first"
            )
        self._before = _SpecialTokens.of(pair, 0, first[0])
        self._between = _SpecialTokens.of(pair, first[-1] + 1, second[0])
        self._after = _SpecialTokens.of(pair, second[-1] + 1, len(pair))
        self._types = pair.type_ids[first[0]], pair.type_ids[second[0]]

    def ids(self, query: Int32Array, document: Int32Array) -> Int32Array:
        """The pair with its special tokens."""
        return np.concatenate(
            [self._before.ids, query, self._between.ids, document, self._after.ids]
        )

    def types(self, query: int, document: int) -> Int8Array:
        """The token types of a pair, given the lengths of its texts in tokens."""
        query_type, document_type = self._types
        return np.concatenate(
            [
                self._before.types,
                np.full(query, query_type, dtype=np.int8),
                self._between.types,
                np.full(document, document_type, dtype=np.int8),
                self._after.types,
            ]
        )


class PairTokenizer:
    """Pairs under one limit; the document is truncated, as with transformers' `only_second`.

    A query that leaves no room for a token of its document is an error of its row, as it is in
    transformers. Each query is tokenized once, however many documents it has.

    Args:
        tokenizer: owned by this class from here on.
        max_length: the most tokens in a pair, special tokens included.
        truncate: which end of the document is cut, or `error` to refuse the row.
        typed: whether the model distinguishes the two texts by token types.
        ids: tokenizes as `tokenizer` does, and is used in its place.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        truncate: Truncate,
        *,
        typed: bool,
        ids: Ids | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._room = text_room(tokenizer, max_length, pair=True)
        self._tokenizer = tokenizer
        self._template = _Template(tokenizer)
        self._max_length = max_length
        self._truncate = truncate
        self._typed = typed
        splits = splits_at_ascii_space(tokenizer)
        if ids is None and splits and spells_by_words(tokenizer):
            ids = Speller(tokenizer)
        self._by = ids
        self._cut_first = truncate == "right" and splits

    def encode(
        self,
        queries: Sequence[str | None],
        documents: Sequence[str | None],
        row_of: Int64Array,
        errors: Mapping[int, str],
    ) -> Tokens:
        """As `Pairs.encode`."""
        errors = dict(errors)
        valid = [i for i, row in enumerate(row_of.tolist()) if row not in errors]
        rows = np.unique(row_of[valid]).tolist()
        query_of = dict(zip(rows, self._ids([queries[row] for row in rows]), strict=True))
        bodies = self._ids([self._shortened(documents[i]) for i in valid])
        pairs: list[tuple[int, Int32Array, Int32Array, int]] = []
        for i, body in zip(valid, bodies, strict=True):
            row = int(row_of[i])
            query = query_of[row]
            if problem := self._problem(len(query), len(body)):
                errors.setdefault(row, problem)
                continue
            kept = self._kept(body, self._room - len(query))
            lost = len(body) - len(kept)
            if lost and self._cut_first:
                lost += round(len(body) * left_out(documents[i] or "", self._max_length))
            pairs.append((row, query, kept, lost))
        return self._collect(len(queries), [p for p in pairs if p[0] not in errors], errors)

    def _ids(self, texts: Sequence[str | None]) -> list[Int32Array]:
        if self._by is not None:
            ids, lengths = self._by.encode(pa.array(texts, pa.large_string()))
            return [
                ids[end - size : end] for end, size in zip(lengths.cumsum(), lengths, strict=True)
            ]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _shortened(self, document: str | None) -> str | None:
        if document is None or not self._cut_first:
            return document
        return shorten(document, self._max_length)

    def _problem(self, query: int, document: int) -> str:
        over = query + document > self._room
        if over and self._truncate == "error":
            size = query + document + self._max_length - self._room
            return (
                f"the query and a document have {size} tokens, more than "
                f"--max-length {self._max_length}"
            )
        if over and query >= self._room:
            return (
                f"the query has {query} tokens and leaves none for a document within "
                f"--max-length {self._max_length}"
            )
        if query + document == 0 and self._max_length == self._room:
            return NO_TOKENS
        return ""

    def _kept(self, document: Int32Array, room: int) -> Int32Array:
        if len(document) <= room:
            return document
        return document[-room:] if self._truncate == "left" else document[:room]

    def _collect(
        self,
        rows: int,
        pairs: list[tuple[int, Int32Array, Int32Array, int]],
        errors: dict[int, str],
    ) -> Tokens:
        ids = [self._template.ids(query, body) for _, query, body, _ in pairs]
        types = None
        if self._typed:
            pair_types = [
                self._template.types(len(query), len(body)) for _, query, body, _ in pairs
            ]
            types = np.concatenate([np.empty(0, np.int8), *pair_types])
        row_of = np.array([row for row, *_ in pairs], dtype=np.int64)
        lost = np.array([lost for *_, lost in pairs], dtype=np.int64)
        tokens = assemble(
            rows,
            row_of,
            np.array([len(sequence) for sequence in ids], dtype=np.int64),
            np.concatenate([np.empty(0, np.int32), *ids]),
            lost > 0,
            errors,
            type_ids=types,
        )
        return replace(tokens, cut=lost_by_row(rows, row_of, lost))
