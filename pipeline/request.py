"""The options of `submit`, before a model, an input or an output is opened."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from pipeline.spec import (
    MAX_FAILED_ROWS,
    Aggregation,
    Chunking,
    InputFormat,
    Kind,
    OutputDtype,
    OutputFormat,
    Precision,
    Truncate,
    Vectors,
)

LongTexts = Literal["cut-end", "cut-start", "error", "chunk", "late-chunk", "pool"]
# The policies that cut a text or refuse it, under the names of --truncate.
_ENDS: dict[LongTexts, Truncate] = {"cut-end": "right", "cut-start": "left", "error": "error"}
_CHUNKINGS: dict[LongTexts, Chunking] = {
    "chunk": "chunk",
    "late-chunk": "late-chunk",
    "pool": "pool",
}
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: The names in `pipeline.tasks.TASKS`, which takes longer to import than a command line to read.
TASK_NAMES = ("embed", "rerank", "classify", "tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `submit` by name, as typed."""

    inputs: tuple[str, ...]
    model: str
    output: str | None = None
    revision: str | None = None
    task: str = "embed"
    text_column: str = "text"
    query_column: str = "query"
    documents_column: str = "documents"
    document_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()  # names, or several with commas: see `named_columns`
    prompt_name: str | None = None
    prompt: str | None = None
    instruction: str | None = None
    max_length: int | None = None
    long_texts: LongTexts | None = None  # None: as `truncate` says
    truncate: Truncate | None = None  # None: the side that the model's tokenizer names
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None
    vectors: tuple[Vectors, ...] = ()  # (): what the model was trained for
    kind: Kind | None = None
    dimensions: tuple[int, ...] = ()
    output_dtype: tuple[OutputDtype, ...] = ("float32",)
    sparse_top_k: int | None = None
    sparse_terms: bool = False
    token_offsets: bool = False
    output_format: OutputFormat | None = None  # None: that of the output, or arrow
    normalize: bool | None = None
    top_k: int | None = None
    raw_scores: bool = False
    aggregation: Aggregation = "simple"
    precision: Precision = "auto"
    token_budget: int | None = None
    rows_per_shard: int | None = None
    format: InputFormat | None = None
    where: str | None = None
    csv_escape: str | None = None
    limit: int | None = None
    add: bool = False
    replace: bool = False
    prune: bool = False
    reuse_from: str | None = None
    max_failed_rows: str = MAX_FAILED_ROWS
    max_bad_files: str = "50%"

    @property
    def end(self) -> Truncate | None:
        """Which end of a long text is cut; None: the side that the model's tokenizer names."""
        if self.long_texts is None:
            return self.truncate
        return _ENDS.get(self.long_texts, "right")

    @property
    def chunking(self) -> Chunking:
        """How a long text is read as a whole; "": it is cut."""
        return "" if self.long_texts is None else _CHUNKINGS.get(self.long_texts, "")

    def is_default(self, name: str) -> bool:
        """Whether an option has its default value."""
        value = getattr(self, name)
        return any(field.name == name and field.default == value for field in fields(self))
