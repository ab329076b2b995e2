"""The frozen description of a job, which crosses process boundaries and is stored.

Everything else depends on two hashes, `space` and `schema`. Two rows may be in one output only if
they were computed in the same space; two parts, only if their id and kept columns also have the
same schema.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from pipeline.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# Increase it if the numbers that a spec produces change on purpose, with the reason here.
# 1: first release.
NUMERICS_VERSION = 1

Vectors = Literal["dense", "sparse", "multi"]
Kind = Literal["query", "document"]
Truncate = Literal["right", "left", "error"]
# Those that read all of a text; "": it is cut, see Truncate.
Chunking = Literal["", "chunk", "late-chunk", "pool"]
OutputDtype = Literal["float32", "float16", "int8", "binary"]
OutputFormat = Literal["arrow", "parquet"]
Precision = Literal["auto", "float32", "float16", "bfloat16", "int8"]
InputFormat = Literal["parquet", "arrow", "jsonl", "csv", "tsv"]
Aggregation = Literal["none", "simple", "first", "average", "max"]


# Called with the rows and the tokens of each computed batch, and with copied rows and 0 tokens.
OnBatch = Callable[[int, int], None]

# Fields of JobSpec that affect how the work is done, but no value of the result.
NOT_IDENTITY = frozenset({
    "id_column", "keep", "source_columns", "output_format",
    "token_budget", "rows_per_shard", "max_failed_rows",
})  # fmt: skip

# Fields of JobSpec that came after 0.1.0: no part of its JSON and its space where they have these
# values, so that these stay what they were.
_LATER: dict[str, object] = {
    "all_labels": False, "output_format": "arrow", "source_columns": False,
    "chunking": "", "chunk_tokens": None, "chunk_overlap": None, "chunk_rules": None,
    "vectors": ("dense",), "kind": None, "more_dimensions": (), "more_output_dtypes": (),
    "sparse_top_k": None, "sparse_terms": False, "token_offsets": False,
}  # fmt: skip
# Lists of JSON.
_TUPLES = ("keep", "vectors", "more_dimensions", "more_output_dtypes")
# How many rows may fail by default: a sample has a blank text or two, and 1% of it is below one.
MAX_FAILED_ROWS = "1% or 100"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights, exactly."""

    name: str
    revision: str  # resolved commit on the hub, "" for a directory
    sha256: str  # of the weights
    fingerprint: str  # of the tokenizer, configuration and module files


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The frozen description of a job: everything that decides what is computed.

    `encoder` is how the checkpoint was understood (`ModelCard.identity`), so that a change in how
    a checkpoint is read also changes the space. It is only hashed and compared: anything about the
    model is read from its card.
    """

    task: str  # a name in `pipeline.tasks.TASKS`
    model: ModelIdentity
    encoder: dict[str, Any] = field(default_factory=dict)
    text_column: str = "text"
    query_column: str = "query"
    documents_column: str = "documents"
    document_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    source_columns: bool = False  # instead of an id: see `pipeline.output.source_columns`
    prompt: str = ""
    max_length: int = 512
    truncate: Truncate = "right"
    chunking: Chunking = ""
    chunk_tokens: int | None = None  # of a chunk at most, all of these only with `chunking`
    chunk_overlap: int | None = None  # tokens
    chunk_rules: int | None = None  # `CHUNK_RULES` of `pipeline.tokenize.chunks`
    dimensions: int | None = None
    output_dtype: OutputDtype = "float32"
    normalize: bool | None = None  # None: as the checkpoint's module files say
    vectors: tuple[Vectors, ...] = ("dense",)
    kind: Kind | None = None  # None: the model's default, or it does not tell them apart
    more_dimensions: tuple[int, ...] = ()  # one column each, after that of `dimensions`
    more_output_dtypes: tuple[OutputDtype, ...] = ()
    sparse_top_k: int | None = None
    sparse_terms: bool = False
    token_offsets: bool = False
    top_k: int | None = None
    raw_scores: bool = False
    aggregation: Aggregation = "simple"
    output_format: OutputFormat = "arrow"
    all_labels: bool = False  # each token, O included, has its logits of all labels
    precision: Precision = "auto"
    token_budget: int | None = None  # None: chosen by the engine from its device
    rows_per_shard: int | None = None
    max_failed_rows: str = MAX_FAILED_ROWS  # in earlier versions: "1%"

    def __post_init__(self) -> None:
        _check_choice("truncate", self.truncate, Truncate)
        _check_choice("long-texts", self.chunking, Chunking)
        for dtype in self.output_dtypes:
            _check_choice("output-dtype", dtype, OutputDtype)
        _check_choice("output-format", self.output_format, OutputFormat)
        _check_choice("precision", self.precision, Precision)
        _check_choice("aggregation", self.aggregation, Aggregation)
        for kind in self.vectors:
            _check_choice("vectors", kind, Vectors)
        for name in (
            "max_length", "chunk_tokens", "dimensions", "top_k", "sparse_top_k", "token_budget",
            "rows_per_shard",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} must be at least 1, got {value}")
        failure_budget(self.max_failed_rows, 0)

    @property
    def all_dimensions(self) -> tuple[int, ...]:
        """The widths of the columns of dense vectors, () for that of the model."""
        return () if self.dimensions is None else (self.dimensions, *self.more_dimensions)

    @property
    def output_dtypes(self) -> tuple[OutputDtype, ...]:
        """The types of the columns of dense vectors."""
        return (self.output_dtype, *self.more_output_dtypes)

    @property
    def space(self) -> str:
        """16 hex digits over everything that affects a value, and NUMERICS_VERSION."""
        identity = {key: value for key, value in self.to_json().items() if key not in NOT_IDENTITY}
        # The digests identify the weights and files; name and revision only say where from.
        identity["model"] = [self.model.sha256, self.model.fingerprint]
        return digest(identity, NUMERICS_VERSION)

    @property
    def has_chunk_rows(self) -> bool:
        """Whether a part has a row for each chunk of a text."""
        return self.chunking in ("chunk", "late-chunk")

    def computed_in(self, precision: str) -> Self:
        """The same job in a precision that was chosen for it."""
        return dataclasses.replace(self, precision=cast(Precision, precision))

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal spec."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in _LATER or v != _LATER[k]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a spec; a field that this version does not know is an error, never ignored.

        Raises:
            UsageError: the data was written by a version with other fields.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - names):
            raise UsageError(
                f"the job was written by another version of bei-jobs: unknown {unknown}",
                hint="run the version of bei-jobs that submitted it",
            )
        model = ModelIdentity(**data["model"])
        tuples = {name: tuple(data[name]) for name in _TUPLES if name in data}
        return cls(**{**data, "model": model, **tuples})


def schema_hash(schema: pa.Schema) -> str:
    """16 hex digits over the names and types of the id and kept columns, in order.

    The types are those that Arrow IPC reads back: of a map, Parquet knows other names of its parts.
    """
    import pyarrow as pa  # not needed to read the options of a command

    stored = pa.ipc.read_schema(schema.serialize())
    return digest([[f.name, str(f.type)] for f in stored])


def digest(*values: Any) -> str:
    """16 hex digits of the SHA-256 over the canonical JSON of `values`."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def digest_of_names(batches: Iterable[Sequence[str]]) -> str:
    """`digest` of one list of names that comes in batches, so that it is never held as a whole."""
    hashed, comma = hashlib.sha256(b"[["), ""
    for names in batches:
        if names:
            hashed.update((comma + canonical_json(names)[1:-1]).encode())
            comma = ","
    hashed.update(b"]]")
    return hashed.hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """The one spelling of a value that hashes are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def failure_budget(limit: str, total: int, option: str = "--max-failed-rows") -> int:
    """How many of `total` may fail.

    `limit` is a count ("20"), a share ("1%", "0.5%"), or two of them ("1% or 100"): the larger one,
    but not all. `option` is where it comes from; its last word is what is counted.

    Raises:
        UsageError: `limit` is none of these.
    """
    one, either, other = limit.partition(" or ")
    try:
        if either:
            return max(0, min(max(_allowed(one, total), _allowed(other, total)), total - 1))
        return _allowed(limit, total)
    except ValueError as error:
        raise UsageError(
            f"{option} {limit!r} is neither a count nor a percentage",
            hint=f"give a number of {option.rpartition('-')[2]} such as 20, or a share such as 1%",
        ) from error


def _allowed(limit: str, total: int) -> int:
    value = float(limit[:-1]) if limit.endswith("%") else int(limit)
    if value < 0 or (limit.endswith("%") and not value <= 100):
        raise ValueError(limit)
    return int(total * value / 100) if limit.endswith("%") else int(value)


def _check_choice(option: str, value: str, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise UsageError(f"--{option} {value!r} is not one of {', '.join(allowed)}")
