"""Rows in and rows out of a task, without a model in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.outputs import Outputs
from pipeline.tasks import Task
from pipeline.tokenize.tokens import Tokens

# Checkpoints with WordPiece, byte-level BPE and Unigram.
TOKENIZERS = ("ner_bert", "ner_roberta", "bge_reranker_xlmr")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "O-MISC", "MISC")


def table(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def finish(
    task: Task, rows: pa.RecordBatch, tokens: Tokens, outputs: Any, failed: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """The result columns as one dictionary per row; rows with an error are null."""
    nulls = np.zeros(tokens.rows, dtype=np.bool_)
    nulls[[*tokens.errors, *failed]] = True
    given = Outputs(np.asarray(outputs, dtype=np.float32))
    arrays = task.all_columns(rows, tokens, given, nulls)
    result = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(task.fields()))
    result.validate(full=True)
    dictionaries: list[dict[str, Any]] = result.to_pylist()
    return dictionaries
