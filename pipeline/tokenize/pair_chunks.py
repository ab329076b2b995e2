"""Pairs whose documents are read in chunks, each with the whole query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.errors import UsageError
from pipeline.packing import Int64Array
from pipeline.tokenize.chunks import Chunks, cut_chunks
from pipeline.tokenize.encodings import encode_sections
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A chunk may have a token more at each end when it is tokenized alone.
_SPARE_TOKENS = 2
_SHORTEST = "a"


class Pairs(Protocol):
    """What turns pairs into sequences."""

    def encode(
        self,
        queries: Sequence[str | None],
        documents: Sequence[str | None],
        row_of: Int64Array,
        errors: Mapping[int, str],
    ) -> Tokens:
        """One sequence per document, in the order of the documents.

        Args:
            queries: [R], one per row; None only in rows that are in `errors`.
            documents: [D], those of one row one after another; None as above.
            row_of: [D], the row of each document, not decreasing.
            errors: row → why it is left out; rows that fail here are added to a copy.
        """
        ...


class ChunkedPairs:
    """Pairs under one limit, without truncation: a long document becomes several pairs.

    A chunk is tokenized with its query as a document is, so this goes for every template. A query
    that leaves no room for a document is what it is without chunks; one that would with longer
    chunks is an error of its row.

    Args:
        pairs: of the model.
        tokenizer: of the model; it is copied.
        chunk_tokens: the most tokens in a pair.
        overlap: tokens that a chunk may share with the one before.
        max_length: the most tokens in a pair of the model.

    Raises:
        UsageError: no query leaves room for a chunk.
    """

    def __init__(
        self,
        pairs: Pairs,
        tokenizer: Tokenizer,
        chunk_tokens: int,
        overlap: int,
        *,
        max_length: int,
    ) -> None:
        self._pairs = pairs
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chunk_tokens = chunk_tokens
        self._overlap = overlap
        self._longer = chunk_tokens < max_length  # whether chunks could be
        if self._longer and (room := int(self._rooms([""], {})[0])) < 1:
            raise UsageError(
                f"--chunk-tokens {chunk_tokens} leaves no room for a document besides the tokens "
                "of the model",
                hint=f"give {chunk_tokens - room + 1} or more, and as many as a query has",
            )

    def encode(
        self,
        queries: Sequence[str | None],
        documents: Sequence[str | None],
        row_of: Int64Array,
        errors: Mapping[int, str],
    ) -> Tokens:
        """As `Pairs.encode`, but one sequence per chunk; `chunks` numbers the documents."""
        rooms, errors = self._rooms(queries, errors), dict(errors)
        pieces: list[str | None] = []
        document_of: list[int] = []
        for number, (document, row) in enumerate(zip(documents, row_of.tolist(), strict=True)):
            own = [document] if document is None else self._pieces(document, int(rooms[row]))
            if not own:
                own = [document]
                errors.setdefault(
                    row,
                    "the query leaves no room for a chunk of its document within --chunk-tokens "
                    f"{self._chunk_tokens}",
                )
            pieces += own
            document_of += [number] * len(own)
        of = np.array(document_of, dtype=np.int64)
        rows = row_of[of] if len(of) else np.zeros(0, dtype=np.int64)
        tokens = self._pairs.encode(queries, pieces, rows, errors)
        kept = of[~np.isin(rows, [*tokens.errors])]
        nothing = np.zeros(len(kept), dtype=np.int64)
        return replace(tokens, chunks=Chunks(tokens.row_of, kept, nothing, tokens.lengths))

    def _rooms(self, queries: Sequence[str | None], errors: Mapping[int, str]) -> Int64Array:
        """Tokens that each row's query leaves to a document, [R]."""
        rows = np.arange(len(queries))
        shortest = self._pairs.encode(queries, [_SHORTEST] * len(queries), rows, errors)
        taken = np.zeros(len(queries), dtype=np.int64)
        taken[shortest.row_of] = shortest.lengths - 1
        return self._chunk_tokens - taken - _SPARE_TOKENS

    def _pieces(self, document: str, room: int) -> list[str | None]:
        """The chunks of a document; none where the query leaves no room for one."""
        whole = room if room > 0 else room + _SPARE_TOKENS  # which no chunk needs here
        # No token has fewer bytes than one.
        if not document or len(document.encode(errors="replace")) <= whole:
            return [document]
        if room < 1 and not self._longer:
            return [document]
        sections = encode_sections(self._tokenizer, document)
        _, starts, ends = (np.concatenate(arrays) for arrays in zip(*sections, strict=True))
        if len(starts) <= whole:
            return [document]
        if room < 1:
            return []
        chunks = cut_chunks(document, starts, ends, room, min(self._overlap, room // 2))
        return [document[chunk.start : chunk.end] for chunk in chunks]
