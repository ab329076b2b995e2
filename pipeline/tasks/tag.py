"""Tag: one text per row → its entities, or its tokens, with their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.packing import Int32Array, Int64Array
from pipeline.request import Request
from pipeline.spec import JobSpec, Truncate
from pipeline.tasks.aggregation import (
    LabelledSpans,
    Labels,
    WordRule,
    group,
    label_tokens,
    label_words,
    select,
)
from pipeline.tasks.base import BoolArray, Float32Array, Task, lists
from pipeline.tasks.scores import softmax
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.overlapping_chunks import LongTextTokenizer
from pipeline.tokenize.texts import text_values
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ENTITY = pa.struct(
    [
        ("entity", pa.string()),
        ("score", pa.float32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("text", pa.string()),
    ]
)
_TOKEN = pa.struct(
    [
        ("token", pa.string()),
        ("token_id", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("label", pa.string()),
        ("score", pa.float32()),
    ]
)
# Tokens whose output the shards are cut for, where a token has the logits of all labels.
_TYPICAL_TOKENS = 512
_TOKEN_BYTES = 40  # without these logits


class Tag(Task):
    """Text → `entities`, or `tokens` without aggregation.

    `start` and `end` are offsets in characters (Unicode code points) of the original text. Special
    tokens are left out. So is the label O, but where each token has the logits of all labels
    (`JobSpec.all_labels`): `scores` holds them in the order of the labels. A text longer than the
    model's limit is read in chunks (`pipeline.tokenize.overlapping_chunks`) and aggregated as a
    whole, so that it is never truncated.
    """

    name = "tag"
    head = "token_classifier"
    models = "a token classifier"
    options = frozenset({"text_column", "raw_scores", "aggregation"})
    output_columns = frozenset({"entities", "tokens"})
    bei_route = "/predict_tokens"
    per_token = True

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        self._spec = spec
        self._vocabulary = tokenizer
        self._labels = Labels(card.labels)
        self._scores = pa.list_(pa.float32(), len(card.labels))
        self._words = WordRule(tokenizer)
        self._tokenizer = LongTextTokenizer(tokenizer, spec.max_length, spec.truncate)

    @classmethod
    def check_request(cls, request: Request) -> None:
        if request.end == "left" or request.long_texts == "cut-end":
            given = (
                f"--long-texts {request.long_texts}" if request.long_texts else "--truncate left"
            )
            raise UsageError(
                f"{given} does not belong to --task tag, which cuts nothing off: a text "
                "longer than --max-length is read in overlapping chunks",
                hint="omit it, or refuse long texts with --long-texts error",
            )
        if request.raw_scores and request.aggregation != "none":
            raise UsageError(
                "--raw-scores needs --aggregation none: the score of an entity is a mean of "
                "probabilities",
                hint="give both, or neither",
            )

    @classmethod
    def row_bytes(cls, request: Request, card: ModelCard) -> int:
        if not (request.raw_scores and request.aggregation == "none"):
            return super().row_bytes(request, card)
        longest = request.max_length or card.max_length or _TYPICAL_TOKENS
        return min(longest, _TYPICAL_TOKENS) * (4 * len(card.labels) + _TOKEN_BYTES)

    @classmethod
    def truncate(cls, request: Request, card: ModelCard) -> Truncate:
        return request.end or "right"  # nothing is cut

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        texts, invalid = text_values(rows.column(self._spec.text_column))
        tokens = self._tokenizer.encode(texts)
        tokens.errors.update(invalid)
        return tokens

    @property
    def _token(self) -> pa.StructType:
        all_labels = [pa.field("scores", self._scores)] if self._spec.all_labels else []
        return pa.struct([*_TOKEN, *all_labels])

    def fields(self) -> list[pa.Field]:
        if self._spec.aggregation == "none":
            return [pa.field("tokens", pa.list_(self._token))]
        return [pa.field("entities", pa.list_(_ENTITY))]

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        texts, _ = text_values(rows.column(self._spec.text_column))
        row_of = tokens.token_rows
        char_spans = _char_spans(tokens)
        used = np.flatnonzero((char_spans[:, 0] >= 0) & ~failed[row_of])
        row_of, ids, char_spans, logits = (
            row_of[used],
            tokens.ids[used],
            char_spans[used],
            outputs[used],
        )
        if self._spec.aggregation == "none":
            spans, values = self._tokens(texts, row_of, ids, char_spans, logits)
        else:
            spans, values = self._entities(texts, row_of, ids, char_spans, logits)
        return [lists(np.bincount(spans.rows, minlength=tokens.rows), values, failed)]

    def _tokens(
        self,
        texts: Sequence[str | None],
        rows: Int64Array,
        ids: Int32Array,
        char_spans: Int32Array,
        logits: Float32Array,
    ) -> tuple[LabelledSpans, pa.StructArray]:
        scores = logits if self._spec.raw_scores else softmax(logits)
        labelled = label_tokens(rows, scores, char_spans)
        if not self._spec.all_labels:
            kept = ~self._labels.outside[labelled.labels]
            labelled, ids = select(labelled, kept), ids[kept]
        columns: list[object] = [
            self._names(texts, ids, labelled),
            ids,
            labelled.starts,
            labelled.ends,
            self._labels.names.take(pa.array(labelled.labels)),
            labelled.scores,
        ]
        if self._spec.all_labels:
            flat = pa.array(scores.ravel(), pa.float32())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=self._scores))
        return labelled, _structs(columns, self._token)

    def _names(
        self, texts: Sequence[str | None], ids: Int32Array, spans: LabelledSpans
    ) -> pa.StringArray:
        """The names of tokens in the vocabulary.

        That of the unknown token says nothing, so its text is used instead.
        """
        different, places = np.unique(ids, return_inverse=True)
        vocabulary = [self._vocabulary.id_to_token(number) for number in different.tolist()]
        names = pa.array(vocabulary, pa.string()).take(pa.array(places))
        unknown = ids == self._words.unknown
        if not unknown.any():
            return names
        own = pa.array(_texts(texts, select(spans, unknown)), pa.string())
        return pc.replace_with_mask(names, pa.array(unknown), own)

    def _entities(
        self,
        texts: Sequence[str | None],
        rows: Int64Array,
        ids: Int32Array,
        char_spans: Int32Array,
        logits: Float32Array,
    ) -> tuple[LabelledSpans, pa.StructArray]:
        scores = softmax(logits)
        if self._spec.aggregation == "simple":
            labelled = label_tokens(rows, scores, char_spans)
        else:
            inside = self._words.inside(texts, rows, ids, char_spans)
            labelled = label_words(rows, scores, char_spans, inside, self._spec.aggregation)
        entities = group(labelled, self._labels)
        name = self._labels.entities.take(pa.array(entities.labels))
        text = pa.array(_texts(texts, entities), pa.string())
        columns = [name, entities.scores, entities.starts, entities.ends, text]
        return entities, _structs(columns, _ENTITY)


def _char_spans(tokens: Tokens) -> Int32Array:
    if tokens.char_spans is None:
        raise ValueError("tokens without character spans: they were not made by Tag.tokenize")
    return tokens.char_spans


def _texts(texts: Sequence[str | None], spans: LabelledSpans) -> list[str]:
    """The text of each span."""
    positions = zip(spans.rows.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
    return [(texts[row] or "")[start:end] for row, start, end in positions]


def _structs(columns: Sequence[object], kind: pa.StructType) -> pa.StructArray:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, kind, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))
