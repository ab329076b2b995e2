"""Rerank by late interaction: queries and documents are read apart, and their tokens compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.encoder.card import ModelCard
from pipeline.maxsim import Scorer
from pipeline.packing import Int64Array
from pipeline.spec import JobSpec, Truncate
from pipeline.tasks.base import BoolArray, Float32Array
from pipeline.tasks.maxsim_options import by_mean, document_prompt
from pipeline.tasks.pairs import query_texts
from pipeline.tasks.rerank import Rerank
from pipeline.tasks.scores import ACTIVATIONS
from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.queries_and_documents import QueriesAndDocuments
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens
from pipeline.tokenize.vector_tokens import vector_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class MaxSimRerank(Rerank):
    """As Rerank, of a model that gives each token a vector.

    A document's score is the sum over the query's tokens of the largest inner product with one of
    its own, and with `--long-texts pool` the best one of its chunks.
    """

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        assert card.multi is not None
        self._spec = spec
        self._activate = ACTIVATIONS["Identity"]
        # The query's own tokenizer: its limit, and how it is cut, are others.
        limit = query_limit(spec, card)
        truncate: Truncate = "error" if spec.truncate == "error" else "right"
        asked = TextTokenizer(_copy(tokenizer), limit, truncate, ids)
        of_query = vector_tokens(card, tokenizer, "query", limit)
        of_document = vector_tokens(card, tokenizer, "document", spec.max_length)
        read, self.uses_ids = self._documents_by(spec, card, _copy(tokenizer), ids)
        self._texts = QueriesAndDocuments(
            lambda texts: of_query(asked.encode(texts, spec.prompt)),
            lambda texts: of_document(read(texts)),
            mean=by_mean(card),
        )
        self.uses_ids = self.uses_ids and asked.uses_ids

    def _documents_by(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None
    ) -> tuple[Callable[[Sequence[str | None]], Tokens], bool]:
        """How documents become tokens, and whether `ids` makes them."""
        prompt = document_prompt(card)
        if spec.chunking == "pool":
            chunk_tokens = spec.chunk_tokens or spec.max_length
            overlap = spec.chunk_overlap or 0
            return ChunkTokenizer(tokenizer, chunk_tokens, overlap, prompt=prompt).encode, False
        texts = TextTokenizer(tokenizer, spec.max_length, spec.truncate, ids)
        return lambda given: texts.encode(given, prompt), texts.uses_ids

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        documents, row_of, errors = self._documents(rows)
        queries, of_queries = query_texts(rows.column(self._spec.query_column), "")
        firsts = np.searchsorted(row_of, row_of)

        def name_of(i: int) -> str:
            if self._spec.document_column is not None:
                return "the document"
            return f"{self._spec.documents_column}[{i - firsts[i]}]"

        return self._texts.encode(queries, documents, row_of, errors | of_queries, name_of)

    def scorer(self, tokens: Tokens) -> Scorer | None:
        return None if tokens.interaction is None else Scorer(tokens.interaction)

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        if tokens.interaction is None:  # of rows that are refused before they are tokenized
            return super().columns(rows, tokens, outputs, failed)
        documents = tokens.interaction.document
        chunks = np.flatnonzero(documents >= 0)
        firsts = np.flatnonzero(np.diff(documents[chunks], prepend=-1))
        best = outputs[chunks]
        if len(firsts):
            best = np.maximum.reduceat(best, firsts)
        row_of: Int64Array = tokens.row_of[chunks][firsts]
        return super().columns(rows, replace(tokens, row_of=row_of), best, failed)


def query_limit(spec: JobSpec, card: ModelCard) -> int:
    """The most tokens of a query: by the model's files, else as for documents."""
    assert card.multi is not None
    limits = (card.multi.query.length or spec.max_length, card.positions)
    return min(limit for limit in limits if limit is not None)


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that others do not set."""
    copied = type(tokenizer).from_str(tokenizer.to_str())
    copied.encode_special_tokens = tokenizer.encode_special_tokens
    return copied
