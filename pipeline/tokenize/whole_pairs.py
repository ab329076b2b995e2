"""Pairs whose text is made and truncated as a whole, as a checkpoint's own code does it.

`pairs.py` has the pairs of encoders that read two texts with separators: there, each query is
tokenized once, and only documents are truncated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.packing import Int8Array, Int32Array, Int64Array
from pipeline.spec import Truncate
from pipeline.tokenize.encodings import lost_by_row, lost_tokens
from pipeline.tokenize.texts import NO_TOKENS, text_room
from pipeline.tokenize.tokens import Tokens, assemble

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from pipeline.encoder.checkpoint.chat_template import PairTemplate

# Texts that share no token at their end: what two renderings of them share is the template's.
_FILLERS = ("0", "1 2 3 4")


@dataclass(frozen=True, slots=True)
class PairTokens:
    """The tokens of one pair."""

    ids: Int32Array
    size: int  # before truncation, as far as that is known
    cut: bool  # whether the limit cuts the pair
    types: Int8Array | None = None
    lost: int = 0  # tokens that the limit leaves out


class WholePairs(ABC):
    """Queries and documents → one sequence per document.

    Args:
        max_length: the most tokens in a pair.
        truncate: which end is cut, or `error` to refuse the row.
    """

    def __init__(self, max_length: int, truncate: Truncate) -> None:
        self._max_length = max_length
        self._truncate = truncate

    @abstractmethod
    def _tokenize(self, pairs: list[tuple[str, str]]) -> list[PairTokens]:
        """The tokens of every pair, truncated unless that is an error."""

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
        rows = row_of[valid]
        pairs = [
            (queries[row] or "", documents[i] or "") for row, i in zip(rows, valid, strict=True)
        ]
        found = self._tokenize(pairs)
        for row, tokens in zip(rows.tolist(), found, strict=True):
            if problem := self._problem(tokens):
                errors.setdefault(row, problem)
        kept = [k for k, row in enumerate(rows.tolist()) if row not in errors]
        return self._collect(len(queries), rows[kept], [found[k] for k in kept], errors)

    def _problem(self, tokens: PairTokens) -> str:
        if tokens.size == 0:
            return NO_TOKENS
        if self._truncate == "error" and tokens.cut:
            return (
                f"the query and a document have {tokens.size} tokens, more than "
                f"--max-length {self._max_length} leaves whole"
            )
        return ""

    def _collect(
        self, rows: int, row_of: Int64Array, found: list[PairTokens], errors: dict[int, str]
    ) -> Tokens:
        types = [tokens.types for tokens in found if tokens.types is not None]
        tokens = assemble(
            rows,
            row_of,
            np.array([len(tokens.ids) for tokens in found], dtype=np.int64),
            np.concatenate([np.empty(0, np.int32), *(tokens.ids for tokens in found)]),
            np.array([tokens.cut for tokens in found], dtype=np.bool_),
            errors,
            type_ids=np.concatenate(types) if types else None,
        )
        lost = np.array([each.lost for each in found], dtype=np.int64)
        return replace(tokens, cut=lost_by_row(rows, row_of, lost))


class JoinedPairs(WholePairs):
    """The tokenizer's own way to join two texts; the longer of the two is cut first.

    That is `longest_first`, as CrossEncoder and transformers' pipelines truncate.

    Args:
        tokenizer: owned by this class from here on.
        max_length: the most tokens in a pair, special tokens included.
        truncate: which end of a text is cut, or `error` to refuse the row.
        typed: whether the model distinguishes the two texts by token types.

    Raises:
        UsageError: the limit leaves no room for text.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_length: int, truncate: Truncate, *, typed: bool
    ) -> None:
        super().__init__(max_length, truncate)
        text_room(tokenizer, max_length, pair=True)
        self._tokenizer = tokenizer
        self._typed = typed
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if truncate != "error":
            tokenizer.enable_truncation(max_length, strategy="longest_first", direction=truncate)

    def _tokenize(self, pairs: list[tuple[str, str]]) -> list[PairTokens]:
        encodings = self._tokenizer.encode_batch_fast(pairs)
        return [
            PairTokens(
                ids_of(encoding),
                len(encoding),
                is_cut(encoding, self._max_length),
                np.array(encoding.type_ids, dtype=np.int8) if self._typed else None,
                lost=self._lost(pair) if encoding.overflowing else 0,
            )
            for pair, encoding in zip(pairs, encodings, strict=True)
        ]

    def _lost(self, pair: tuple[str, str]) -> int:
        """Tokens of a pair beyond the limit: what its two texts lost says no encoding."""
        return len(self._untruncated.encode(*pair)) - self._max_length

    @cached_property
    def _untruncated(self) -> Tokenizer:
        """The tokenizer without its limit."""
        tokenizer = type(self._tokenizer).from_str(self._tokenizer.to_str())
        tokenizer.no_truncation()
        return tokenizer


class RenderedPairs(WholePairs):
    """Pairs as a chat template renders them, truncated as CrossEncoder does.

    The whole text is cut at its end. Then its last tokens are replaced by those of the template,
    which the score is read after.

    Args:
        tokenizer: owned by this class from here on.
        template: the words around the two texts.
        restores_end: whether the template's end is put back after truncation.
        max_length: the most tokens in a pair, those of the template included.
        truncate: which end of the rendered text is cut, or `error` to refuse the row.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: PairTemplate,
        max_length: int,
        truncate: Truncate,
        *,
        restores_end: bool,
    ) -> None:
        super().__init__(max_length, truncate)
        self._tokenizer = tokenizer
        self._template = template
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._end = self._template_end() if restores_end else np.empty(0, np.int32)
        if truncate != "error":
            tokenizer.enable_truncation(max_length, direction=truncate)

    def _template_end(self) -> Int32Array:
        """The tokens at the end of every rendered pair, whatever the two texts are."""
        first, second = (each.ids for each in self._encode([(text, text) for text in _FILLERS]))
        count = 0
        while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
            count += 1
        # Where one is the end of the other, nothing tells the template's tokens from the text's.
        shared = count if count < min(len(first), len(second)) else 0
        return np.array(first[len(first) - shared :], dtype=np.int32)

    def _encode(self, pairs: list[tuple[str, str]]) -> list[Encoding]:
        texts = [self._template.text(*pair) for pair in pairs]
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def _tokenize(self, pairs: list[tuple[str, str]]) -> list[PairTokens]:
        return [self._restored(encoding) for encoding in self._encode(pairs)]

    def _restored(self, encoding: Encoding) -> PairTokens:
        ids = ids_of(encoding)
        if len(ids) >= self._max_length and (kept := min(len(self._end), len(ids))):
            ids[-kept:] = self._end[-kept:]
        cut = is_cut(encoding, self._max_length)
        return PairTokens(ids, len(ids), cut, lost=lost_tokens(encoding))


def ids_of(encoding: Encoding) -> Int32Array:
    """The ids of an encoding."""
    return np.array(encoding.ids, dtype=np.int32)


def is_cut(encoding: Encoding, max_length: int) -> bool:
    """Whether an encoding was truncated, or would be if that were no error."""
    return bool(encoding.overflowing) or len(encoding) > max_length
