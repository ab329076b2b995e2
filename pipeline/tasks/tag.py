"""Tag: one text a row, the entities in it, or its tokens, with their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.packing import Int32Array, Int64Array
from pipeline.request import Request
from pipeline.spec import JobSpec
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
from pipeline.tokenize.long_texts import LongTextTokenizer
from pipeline.tokenize.texts import Tokens, text_values

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


class Tag(Task):
    """Text → `entities`, or `tokens` where nothing is to be aggregated.

    `start` and `end` count characters (Unicode code points) of the text as it came. The label O
    and special tokens are left out. A text longer than the model is read in overlapping windows
    (`pipeline.tokenize.long_texts`) and aggregated as one, so that it is never truncated.
    """

    name = "tag"
    head = "token_classifier"
    models = "a token classifier"
    options = frozenset({"text_column", "raw_scores", "aggregation"})
    output_columns = frozenset({"entities", "tokens"})
    bei_route = "/predict_tokens"
    per_token = True

    def __init__(self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer) -> None:
        self._spec = spec
        self._vocabulary = tokenizer
        self._labels = Labels(card.labels)
        self._words = WordRule(tokenizer)
        self._tokenizer = LongTextTokenizer(tokenizer, spec.max_length, spec.truncate)

    @classmethod
    def check_request(cls, request: Request) -> None:
        if request.truncate == "left":
            raise UsageError(
                "--truncate left does not belong to --task tag, which cuts nothing off: a text "
                "longer than --max-length is read in overlapping chunks",
                hint="omit it, or refuse long texts with --truncate error",
            )
        if request.raw_scores and request.aggregation != "none":
            raise UsageError(
                "--raw-scores needs --aggregation none: the score of an entity is a mean of "
                "probabilities",
                hint="give both, or neither",
            )

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        texts, invalid = text_values(rows.column(self._spec.text_column))
        tokens = self._tokenizer.encode(texts)
        tokens.errors.update(invalid)
        return tokens

    def fields(self) -> list[pa.Field]:
        if self._spec.aggregation == "none":
            return [pa.field("tokens", pa.list_(_TOKEN))]
        return [pa.field("entities", pa.list_(_ENTITY))]

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        texts, _ = text_values(rows.column(self._spec.text_column))
        owner = tokens.token_rows
        char_spans = _char_spans(tokens)
        read = np.flatnonzero((char_spans[:, 0] >= 0) & ~failed[owner])
        owner, ids, char_spans, logits = (
            owner[read],
            tokens.ids[read],
            char_spans[read],
            outputs[read],
        )
        if self._spec.aggregation == "none":
            found, values = self._tokens(texts, owner, ids, char_spans, logits)
        else:
            found, values = self._entities(texts, owner, ids, char_spans, logits)
        return [lists(np.bincount(found.rows, minlength=tokens.rows), values, failed)]

    def _tokens(
        self,
        texts: Sequence[str | None],
        rows: Int64Array,
        ids: Int32Array,
        char_spans: Int32Array,
        logits: Float32Array,
    ) -> tuple[LabelledSpans, pa.StructArray]:
        scores = logits if self._spec.raw_scores else softmax(logits)
        found = label_tokens(rows, scores, char_spans)
        kept = ~self._labels.outside[found.labels]
        found, ids = select(found, kept), ids[kept]
        # An unknown token says nothing: the text that it stands for does.
        names = [
            text if number == self._words.unknown else self._vocabulary.id_to_token(number)
            for number, text in zip(ids.tolist(), _texts(texts, found), strict=True)
        ]
        label = self._labels.names.take(pa.array(found.labels))
        columns = [pa.array(names, pa.string()), ids, found.starts, found.ends, label, found.scores]
        return found, _structs(columns, _TOKEN)

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
            found = label_tokens(rows, scores, char_spans)
        else:
            inside = self._words.inside(texts, rows, ids, char_spans)
            found = label_words(rows, scores, char_spans, inside, self._spec.aggregation)
        found = group(found, self._labels)
        name = self._labels.entities.take(pa.array(found.labels))
        text = pa.array(_texts(texts, found), pa.string())
        columns = [name, found.scores, found.starts, found.ends, text]
        return found, _structs(columns, _ENTITY)


def _char_spans(tokens: Tokens) -> Int32Array:
    if tokens.char_spans is None:
        raise ValueError("tokens without character spans: they were not made by Tag.tokenize")
    return tokens.char_spans


def _texts(texts: Sequence[str | None], found: LabelledSpans) -> list[str]:
    """The text of each span."""
    places = zip(found.rows.tolist(), found.starts.tolist(), found.ends.tolist(), strict=True)
    return [(texts[row] or "")[start:end] for row, start, end in places]


def _structs(columns: Sequence[object], kind: pa.StructType) -> pa.StructArray:
    arrays = [pa.array(values, each.type) for values, each in zip(columns, kind, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))
