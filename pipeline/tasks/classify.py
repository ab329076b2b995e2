"""Classify: one text per row → its labels and their scores, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.tasks.base import BoolArray, Float32Array, Task, lists
from pipeline.tasks.scores import sigmoid, softmax
from pipeline.tokenize.texts import TextTokenizer, Tokens, text_values

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Classify(Task):
    """Text → `labels` and `scores`.

    Scores are as in transformers' text-classification pipeline: a softmax over the labels; a
    sigmoid of each if the config has only one label or says that several may apply; the logits of
    a regression.
    """

    name = "classify"
    head = "sequence_classifier"
    models = "a sequence classifier with several classes"
    options = frozenset({"text_column", "top_k", "raw_scores"})
    output_columns = frozenset({"labels", "scores"})
    bei_route = "/predict"

    def __init__(self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer) -> None:
        self._spec = spec
        self._labels = card.labels
        self._keeps_logits = spec.raw_scores or card.config.regression
        self._independent = card.config.multi_label or len(self._labels) == 1
        self._top_k = min(spec.top_k or _default_top_k(card), len(self._labels))
        self._tokenizer = TextTokenizer(tokenizer, spec.max_length, spec.truncate)

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        if request.top_k is not None:
            return {}
        several = card.config.multi_label
        reason = "labels do not exclude each other" if several else "labels exclude each other"
        return {"top-k": Choice(_default_top_k(card), reason)}

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        texts, invalid = text_values(rows.column(self._spec.text_column))
        tokens = self._tokenizer.encode(texts)
        tokens.errors.update(invalid)
        return tokens

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


def _default_top_k(card: ModelCard) -> int:
    return len(card.labels) if card.config.multi_label else 1
