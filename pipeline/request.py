"""The options of `submit`, before a model, an input or an output is opened."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pipeline.spec import (
    MAX_FAILED_ROWS,
    Aggregation,
    InputFormat,
    Kind,
    OutputDtype,
    OutputFormat,
    Precision,
    Truncate,
    Vectors,
)


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
    truncate: Truncate | None = None  # None: the side that the model's tokenizer names
    vectors: tuple[Vectors, ...] = ()  # (): what the model was trained for
    kind: Kind | None = None
    dimensions: tuple[int, ...] = ()
    output_dtype: tuple[OutputDtype, ...] = ("float32",)
    sparse_top_k: int | None = None
    sparse_terms: bool = False
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

    def is_default(self, name: str) -> bool:
        """Whether an option has its default value."""
        value = getattr(self, name)
        return any(field.name == name and field.default == value for field in fields(self))
