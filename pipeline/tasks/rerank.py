"""Rerank: a query and its documents per row, or one pair per row → a score per document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import CheckpointError, UsageError
from pipeline.packing import Int64Array
from pipeline.request import Request
from pipeline.spec import JobSpec, Truncate, Vectors
from pipeline.tasks.base import (
    SAMPLE_DOCUMENTS,
    BoolArray,
    Float32Array,
    InputColumns,
    Task,
    lists,
)
from pipeline.tasks.maxsim_options import (
    check_maxsim,
    maxsim_choices,
    maxsim_identity,
    query_prompt,
)
from pipeline.tasks.pairs import (
    about,
    check_pair_columns,
    check_prompt,
    one_per_row,
    pair_prompt,
    pair_prompt_choice,
    pair_sample,
    pair_tokenizer,
    query_texts,
    short_query,
    takes_instruction,
)
from pipeline.tasks.scores import ACTIVATIONS
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.pair_chunks import Pairs
from pipeline.tokenize.pairs import PairTokenizer
from pipeline.tokenize.texts import text_values
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Rerank(Task):
    """Query and documents → `scores` and `ranking`; query and document → `score`.

    Scores are those of sentence-transformers' CrossEncoder: logits, and the model's activation.

    `ranking` holds positions in the list of documents, from 0, best first; documents with equal
    logits keep their order. A null query, list or document is an error of the row, because an
    incomplete ranking could be taken for a complete one. A row without documents has empty lists.
    """

    name = "rerank"
    head = "sequence_classifier"
    models = "a reranker: it scores pairs, with one class"
    options = frozenset(
        {
            "query_column",
            "documents_column",
            "document_column",
            "prompt",
            "prompt_name",
            "instruction",
            "raw_scores",
        }
    )
    output_columns = frozenset({"score", "scores", "ranking"})
    chunkings = ("pool",)
    bei_route = "/rerank"

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        self._spec = spec
        self._activate = ACTIVATIONS["Identity"] if spec.raw_scores else _activation(card)
        self._prefix = "" if takes_instruction(card) else spec.prompt
        self._tokenizer: Pairs = pair_tokenizer(
            spec, card, tokenizer, joined=bool(card.cross_encoder.score_tokens), ids=ids
        )
        self.uses_ids = ids is not None and isinstance(self._tokenizer, PairTokenizer)

    @classmethod
    def accepts(cls, card: ModelCard) -> bool:
        return card.multi is not None or (super().accepts(card) and len(card.labels) == 1)

    @classmethod
    def identity(cls, card: ModelCard) -> dict[str, Any]:
        if card.multi is not None:
            return card.identity() | maxsim_identity(card)
        return super().identity(card) | card.cross_encoder.identity()

    @classmethod
    def vectors(cls, request: Request, card: ModelCard) -> tuple[Vectors, ...]:
        return ("dense",) if card.multi is None else ("multi",)

    @classmethod
    def truncate(cls, request: Request, card: ModelCard) -> Truncate:
        if card.multi is not None:
            return request.end or "right"
        return super().truncate(request, card)

    @classmethod
    def text_columns(cls, columns: InputColumns) -> tuple[str, ...]:
        document = columns.document_column
        return (columns.query_column,) if document is None else (columns.query_column, document)

    @classmethod
    def list_columns(cls, columns: InputColumns) -> tuple[str, ...]:
        return (columns.documents_column,) if columns.document_column is None else ()

    @classmethod
    def check_request(cls, request: Request) -> None:
        if request.document_column is not None and request.documents_column != "documents":
            raise UsageError(
                "--document-column and --documents-column cannot be used together",
                hint="give the first for one pair per row, the second for a list of documents "
                "per row",
            )
        check_pair_columns(request, request.document_column or request.documents_column)

    @classmethod
    def check_model(cls, request: Request, card: ModelCard) -> None:
        if card.multi is not None:
            check_maxsim(request, card)
            return
        if not request.raw_scores:
            _activation(card)
        check_prompt(request, card)

    @classmethod
    def prompt(cls, request: Request, card: ModelCard) -> str:
        return pair_prompt(request, card) if card.multi is None else query_prompt(request, card)

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        if card.multi is not None:
            return maxsim_choices(request, card)
        return pair_prompt_choice(request, card)

    @classmethod
    def sample(
        cls, spec: JobSpec, texts: Sequence[str], documents: int = SAMPLE_DOCUMENTS
    ) -> pa.RecordBatch:
        if spec.document_column is not None:
            return pair_sample(spec, spec.document_column, texts)
        count, queries = len(texts), [short_query(text) for text in texts]
        lists_of_texts = [[texts[(i + j) % count] for j in range(documents)] for i in range(count)]
        return pa.RecordBatch.from_pydict(
            {spec.query_column: queries, spec.documents_column: lists_of_texts}
        )

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        documents, row_of, errors = self._documents(rows)
        queries, of_queries = query_texts(rows.column(self._spec.query_column), self._prefix)
        return self._tokenizer.encode(queries, documents, row_of, errors | of_queries)

    def _documents(
        self, rows: pa.RecordBatch
    ) -> tuple[list[str | None], Int64Array, dict[int, str]]:
        """All documents, the row of each, and row → why it is left out."""
        if self._spec.document_column is not None:
            return one_per_row(rows.column(self._spec.document_column))
        return _many_per_row(rows.column(self._spec.documents_column), self._spec.documents_column)

    def fields(self) -> list[pa.Field]:
        if self._spec.document_column is not None:
            return [pa.field("score", pa.float32())]
        return [
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("ranking", pa.list_(pa.int32())),
        ]

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        valid = ~failed[tokens.row_of]
        row_of, logits = tokens.row_of[valid], outputs[valid, 0]
        scores = self._activate(logits)
        if self._spec.document_column is not None:
            column = np.zeros(tokens.rows, dtype=np.float32)
            column[row_of] = scores
            return [pa.array(column, mask=failed)]
        counts = np.bincount(row_of, minlength=tokens.rows)
        firsts = np.cumsum(counts) - counts
        # Sorted by logit, because different scores may both round to 1; stable within a row.
        best_first = np.lexsort((-logits, row_of))
        ranking = (best_first - firsts[row_of]).astype(np.int32)
        return [
            lists(counts, pa.array(scores), failed),
            lists(counts, pa.array(ranking), failed),
        ]


def _activation(card: ModelCard) -> Callable[[Float32Array], Float32Array]:
    """What turns the model's logits into its scores.

    Raises:
        CheckpointError: it names a function that bei-jobs does not compute.
    """
    name = card.cross_encoder.activation
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"{card.name} names the activation {name}; of torch.nn, bei-jobs computes "
            f"{', '.join(ACTIVATIONS)}",
            hint="use --raw-scores for logits, and apply the function to them",
        )
    return ACTIVATIONS[name]


def _many_per_row(
    column: pa.Array, name: str
) -> tuple[list[str | None], Int64Array, dict[int, str]]:
    column = column.cast(pa.large_list(pa.large_string()))
    counts = column.value_lengths().fill_null(0).to_numpy()
    row_of = np.repeat(np.arange(len(column)), counts)
    positions = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    documents, invalid = text_values(column.flatten())
    errors = {int(row): f"{name} is null" for row in np.flatnonzero(column.is_null())}
    for i, text in enumerate(documents):
        if text is None:
            document = f"{name}[{positions[i]}]"
            reason = about(document, invalid[i]) if i in invalid else f"{document} is null"
            errors.setdefault(int(row_of[i]), reason)
    return documents, row_of, errors
