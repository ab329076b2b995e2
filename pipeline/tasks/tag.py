"""Tag: one text a row, the entities in it, or its tokens, with their places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.packing import Int32Array, Int64Array
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
from pipeline.tasks.base import BoolArray, Float32Array, lists
from pipeline.tasks.scores import softmax
from pipeline.tokenize.long_texts import LongTextTokenizer
from pipeline.tokenize.texts import Tokens, text_values

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


class Tag:
    """Text → `entities`, or `tokens` where nothing is to be aggregated.

    `start` and `end` count characters (Unicode code points) of the text as it came. The label O
    and special tokens are left out. A text longer than the model is read in overlapping windows
    (`pipeline.tokenize.long_texts`) and aggregated as one, so that it is never truncated.
    """

    per_token = True

    def __init__(self, spec: JobSpec, tokenizer: Tokenizer) -> None:
        self._spec = spec
        self._vocabulary = tokenizer
        self._labels = Labels(spec.encoder["labels"])
        self._words = WordRule(tokenizer)
        self._tokenizer = LongTextTokenizer(tokenizer, spec.max_length, spec.truncate)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self._spec.text_column,)

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
        spans = _spans(tokens)
        read = np.flatnonzero((spans[:, 0] >= 0) & ~failed[owner])
        owner, ids, spans, logits = owner[read], tokens.ids[read], spans[read], outputs[read]
        if self._spec.aggregation == "none":
            found, values = self._tokens(texts, owner, ids, spans, logits)
        else:
            found, values = self._entities(texts, owner, ids, spans, logits)
        return [lists(np.bincount(found.rows, minlength=tokens.rows), values, failed)]

    def _tokens(
        self,
        texts: Sequence[str | None],
        rows: Int64Array,
        ids: Int32Array,
        spans: Int32Array,
        logits: Float32Array,
    ) -> tuple[LabelledSpans, pa.StructArray]:
        scores = logits if self._spec.raw_scores else softmax(logits)
        found = label_tokens(rows, scores, spans)
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
        spans: Int32Array,
        logits: Float32Array,
    ) -> tuple[LabelledSpans, pa.StructArray]:
        scores = softmax(logits)
        if self._spec.aggregation == "simple":
            found = label_tokens(rows, scores, spans)
        else:
            inside = self._words.inside(texts, rows, ids, spans)
            found = label_words(rows, scores, spans, inside, self._spec.aggregation)
        found = group(found, self._labels)
        name = self._labels.entities.take(pa.array(found.labels))
        text = pa.array(_texts(texts, found), pa.string())
        columns = [name, found.scores, found.starts, found.ends, text]
        return found, _structs(columns, _ENTITY)


def _spans(tokens: Tokens) -> Int32Array:
    if tokens.spans is None:
        raise ValueError("tokens without spans: they were not made by Tag.tokenize")
    return tokens.spans


def _texts(texts: Sequence[str | None], found: LabelledSpans) -> list[str]:
    """The text of each span."""
    places = zip(found.rows.tolist(), found.starts.tolist(), found.ends.tolist(), strict=True)
    return [(texts[row] or "")[start:end] for row, start, end in places]


def _structs(columns: Sequence[object], kind: pa.StructType) -> pa.StructArray:
    arrays = [pa.array(values, each.type) for values, each in zip(columns, kind, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))
