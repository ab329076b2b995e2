"""A sample of rows, and what an engine computes of it in batches of one's choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.encoder.card import ModelCard
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.packing import Int64Array
from pipeline.spec import JobSpec
from pipeline.tasks import Task, make_task
from pipeline.tasks.base import Float32Array
from pipeline.tokenize.tokens import Tokens

# A text, or a query and a document; None: part of a text that is read in chunks.
Input: TypeAlias = str | tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokenized rows of a model and a task."""

    card: ModelCard
    spec: JobSpec
    task: Task
    rows: pa.RecordBatch
    tokens: Tokens

    @classmethod
    def of(cls, card: ModelCard, spec: JobSpec, texts: Sequence[str]) -> Sample:
        """Texts in the columns that the task reads; to rerank, each is the query of those after."""
        task = make_task(spec, card, load_tokenizer(card))
        rows = task.sample(spec, texts)
        return cls(card, spec, task, rows, task.tokenize(rows))

    def sequences_of(self, rows: int) -> int:
        """How many sequences the first rows have."""
        return int(np.searchsorted(self.tokens.row_of, rows))

    def inputs(self) -> list[Input]:
        """What each sequence was made of, in their order; of queries and documents that are read
        apart, nothing that a library tokenizes alike.
        """
        if self.tokens.interaction is not None:
            return [None] * len(self.tokens.lengths)
        columns = [self.rows.column(name) for name in self.task.columns_read(self.spec)]
        texts = [column.to_pylist() for column in columns]
        if len(columns) > 1:
            pairs = enumerate(zip(*texts, strict=True))
            return [
                (query, document)
                for row, (query, documents) in pairs
                for document in documents
                if row not in self.tokens.errors
            ]
        chunks = np.bincount(self.tokens.row_of, minlength=self.tokens.rows)
        return [
            self.spec.prompt + texts[0][row] if chunks[row] == 1 else None
            for row in self.tokens.row_of.tolist()
        ]

    def values_of(self, outputs: Float32Array, sequence: int) -> Float32Array:
        """The outputs of one sequence: [1, width], or [tokens, width] with one per token."""
        if not self.task.per_token:
            return outputs[sequence : sequence + 1]
        return outputs[self.tokens.offsets[sequence] : self.tokens.offsets[sequence + 1]]


def compute(engine: Engine, sample: Sample, batches: Iterable[Int64Array]) -> Float32Array:
    """Outputs in the order of the sequences, [S, width] or [T, width]; NaN in no batch.

    Args:
        engine: of the sample's model.
        sample: tokenized rows.
        batches: indexes of sequences.

    Raises:
        EncodeError: the device failed.
    """
    tokens, per_token = sample.tokens, sample.task.per_token
    size = tokens.ids.shape[0] if per_token else tokens.lengths.shape[0]
    values = np.full((size, engine.output_size), np.nan, dtype=np.float32)
    for batch, outputs in engine.run(tokens.batch(one) for one in batches):
        flat = outputs.reshape(-1, engine.output_size)
        if not per_token:
            values[batch.sequences] = flat
            continue
        for first, last, sequence in zip(
            batch.cu_seqlens[:-1], batch.cu_seqlens[1:], batch.sequences, strict=True
        ):
            start = tokens.offsets[sequence]
            values[start : start + last - first] = flat[first:last]
    return values
