"""Classify: a text or a pair of texts per row → its labels and their scores, best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.tasks.base import (
    SAMPLE_DOCUMENTS,
    BoolArray,
    Float32Array,
    InputColumns,
    Task,
    lists,
)
from pipeline.tasks.pairs import (
    check_pair_columns,
    check_prompt,
    one_per_row,
    pair_prompt,
    pair_prompt_choice,
    pair_sample,
    pair_tokenizer,
    query_texts,
    takes_instruction,
)
from pipeline.tasks.scores import sigmoid, softmax
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.pair_chunks import Pairs
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Classify(Task):
    """Text, or query and document → `labels` and `scores`.

    Scores are as in transformers' text-classification pipeline: a softmax over the labels; a
    sigmoid of each if the config has only one label or says that several may apply; the logits of
    a regression.
    """

    name = "classify"
    head = "sequence_classifier"
    models = "a sequence classifier with several classes"
    options = frozenset(
        {
            "text_column",
            "query_column",
            "document_column",
            "prompt",
            "prompt_name",
            "instruction",
            "top_k",
            "raw_scores",
        }
    )
    output_columns = frozenset({"labels", "scores"})
    chunkings = ("pool",)
    bei_route = "/predict"

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        self._spec = spec
        self._labels = card.labels
        self._keeps_logits = spec.raw_scores or card.config.regression
        self._independent = card.config.multi_label or len(self._labels) == 1
        self._top_k = min(spec.top_k or _default_top_k(card), len(self._labels))
        if spec.document_column is None:
            texts = TextTokenizer(tokenizer, spec.max_length, spec.truncate, ids)
            self.uses_ids = texts.uses_ids
            self._tokenize = _texts(texts, spec.text_column)
        else:
            pairs = pair_tokenizer(spec, card, tokenizer, joined=True)
            self._tokenize = tokenize_pairs(spec, card, pairs, spec.document_column)

    @classmethod
    def accepts(cls, card: ModelCard) -> bool:
        return super().accepts(card) and not card.cross_encoder.score_tokens

    @classmethod
    def text_columns(cls, columns: InputColumns) -> tuple[str, ...]:
        document = columns.document_column
        return (columns.text_column,) if document is None else (columns.query_column, document)

    @classmethod
    def check_request(cls, request: Request) -> None:
        if request.document_column is None and not request.is_default("query_column"):
            raise UsageError(
                "--query-column needs --document-column: with --task classify, they name the two "
                "texts of a pair",
                hint="give both, or --text-column for single texts",
            )
        if request.document_column is None:
            for option in ("prompt", "prompt_name", "instruction"):
                if getattr(request, option) is not None:
                    raise UsageError(
                        f"--{option.replace('_', '-')} does not belong to --task classify without "
                        "--document-column: only pairs of texts have one",
                        hint="omit it, or put the text into the column itself",
                    )
        else:
            if not request.is_default("text_column"):
                raise UsageError(
                    "--text-column and --document-column cannot be used together",
                    hint="give the first for single texts, --query-column and --document-column "
                    "for pairs",
                )
            check_pair_columns(request, request.document_column)

    @classmethod
    def check_model(cls, request: Request, card: ModelCard) -> None:
        if request.document_column is not None:
            check_prompt(request, card)

    @classmethod
    def prompt(cls, request: Request, card: ModelCard) -> str:
        return "" if request.document_column is None else pair_prompt(request, card)

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        found = {} if request.document_column is None else dict(pair_prompt_choice(request, card))
        if request.top_k is None:
            several = card.config.multi_label
            reason = "labels do not exclude each other" if several else "labels exclude each other"
            found["top-k"] = Choice(_default_top_k(card), reason)
        return found

    @classmethod
    def sample(
        cls, spec: JobSpec, texts: Sequence[str], documents: int = SAMPLE_DOCUMENTS
    ) -> pa.RecordBatch:
        if spec.document_column is None:
            return super().sample(spec, texts, documents)
        return pair_sample(spec, spec.document_column, texts)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        return self._tokenize(rows)

    def fields(self) -> list[pa.Field]:
        return [
            pa.field("labels", pa.list_(pa.string())),
            pa.field("scores", pa.list_(pa.float32())),
        ]

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        logits = outputs[~failed[tokens.row_of]]  # one sequence per row, without failed rows
        best = np.argsort(-logits, axis=1, kind="stable")[:, : self._top_k]
        scores = np.take_along_axis(self._scores(logits), best, axis=1)
        counts = np.where(failed, 0, self._top_k)
        names = pa.array(self._labels, pa.string()).take(pa.array(best.ravel()))
        return [
            lists(counts, names, failed),
            lists(counts, pa.array(scores.ravel(), pa.float32()), failed),
        ]

    def _scores(self, logits: Float32Array) -> Float32Array:
        if self._keeps_logits:
            return logits
        return sigmoid(logits) if self._independent else softmax(logits)


def _texts(tokenizer: TextTokenizer, column: str) -> Callable[[pa.RecordBatch], Tokens]:
    def tokenize(rows: pa.RecordBatch) -> Tokens:
        return tokenizer.encode_column(rows.column(column))

    return tokenize


def tokenize_pairs(
    spec: JobSpec, card: ModelCard, pairs: Pairs, document_column: str
) -> Callable[[pa.RecordBatch], Tokens]:
    """What turns rows with a query and a document into sequences."""
    prefix = "" if takes_instruction(card) else spec.prompt

    def tokenize(rows: pa.RecordBatch) -> Tokens:
        queries, of_queries = query_texts(rows.column(spec.query_column), prefix)
        documents, row_of, errors = one_per_row(rows.column(document_column))
        return pairs.encode(queries, documents, row_of, errors | of_queries)

    return tokenize


def _default_top_k(card: ModelCard) -> int:
    return len(card.labels) if card.config.multi_label else 1
