"""What was typed, before it meets a model, an input or an output."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError
from pipeline.store.directory import absolute, redact

_DATA_SUFFIXES = re.compile(
    r"(\.(parquet|pq|arrows?|feather|ipc|jsonl|ndjson|json|csv|tsv))?(\.(gz|zst))?$", re.IGNORECASE
)
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was typed, unresolved: the options of `submit` by name."""

    inputs: tuple[str, ...]
    model: str
    output: str | None = None
    revision: str | None = None
    task: Any = "embed"
    text_column: str = "text"
    query_column: str = "query"
    documents_column: str = "documents"
    document_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    prompt_name: str | None = None
    prompt: str | None = None
    max_length: int | None = None
    truncate: Any = "right"
    dimensions: int | None = None
    output_dtype: Any = "float32"
    normalize: bool | None = None
    top_k: int | None = None
    raw_scores: bool = False
    aggregation: Any = "simple"
    precision: Any = "auto"
    token_budget: int | None = None
    rows_per_shard: int | None = None
    limit: int | None = None
    add: bool = False
    replace: bool = False
    prune: bool = False
    max_failed_rows: str = "1%"


def default_output(inputs: Sequence[str], task: str) -> str:
    """Beside the input: `corpus.parquet` → `corpus.embed`, `data/` and `data/*.csv` → `data.embed`.

    Named after the task, so that one corpus can be embedded and classified side by side.

    Raises:
        UsageError: there are several inputs, so that no place is beside them all, or the input
            is part of an output.
    """
    if len(inputs) != 1:
        raise UsageError(
            "several inputs need an --output", hint="give one, such as --output vectors/"
        )
    uri = absolute(inputs[0])
    if "/_bei/" in f"{uri}/":
        raise UsageError(
            f"{redact(uri)} lies inside an output, where no other output may be",
            hint="give an --output of its own, such as --output mended.embed",
        )
    while _MAGIC.search(uri) and not os.path.exists(uri):
        uri = uri.rstrip("/").rpartition("/")[0]
    if not uri.strip("/"):
        raise UsageError("an --output beside the root directory cannot be named", hint="give one")
    return _DATA_SUFFIXES.sub("", uri.rstrip("/")) + f".{task}"
