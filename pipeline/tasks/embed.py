"""Embed: one text per row → its vectors: dense ones, sparse ones, and those of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np
import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.architecture.multi_head import CONVERT_VECTORS
from pipeline.encoder.architecture.sparse_head import CONVERT
from pipeline.encoder.card import ModelCard
from pipeline.errors import CheckpointError, UsageError
from pipeline.outputs import Outputs
from pipeline.request import Request
from pipeline.spec import JobSpec, Vectors
from pipeline.tasks.base import BoolArray, Float32Array, Task
from pipeline.tasks.dense_columns import DenseColumn, dense_columns
from pipeline.tasks.multi_columns import (
    MultiColumns,
    bytes_of_token,
    multi_columns,
    multi_flaws,
    multi_names,
)
from pipeline.tasks.prompts import embed_prompt
from pipeline.tasks.sparse_columns import (
    FLOAT16_OVERFLOW,
    SPARSE_NAMES,
    SparseColumns,
    sparse_dtype,
    sparse_flaws,
    sparse_row_bytes,
)
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.outputs import output_rows
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens
from pipeline.tokenize.vector_tokens import vector_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Estimated bytes of an output row besides its vectors: id, counts and kept columns.
_OTHER_BYTES = 64
# Tokens that the rows of a shard are bounded for; where texts have more, their bytes do it.
_WIDE_TOKENS = 512
# Options of one kind of vectors, which others refuse.
_OPTIONS: dict[Vectors, tuple[str, ...]] = {
    "dense": ("dimensions", "normalize"),
    "sparse": ("sparse_top_k", "sparse_terms"),
    "multi": ("token_offsets",),
}
# What to do about bge-m3's heads, which are published as pickles.
_CONVERT: dict[Vectors, str] = {"sparse": CONVERT, "multi": CONVERT_VECTORS}


class Embed(Task):
    """Text → `embedding fixed_size_list<T>[width]`, or one such column per width and type; and
    `sparse_indices list<int32>` with `sparse_values list<T>`; and `vectors
    list<fixed_size_list<T>[width]>` of tokens.
    """

    name = "embed"
    head = "embedding"
    models = "an embedding model: it has no classifier"
    options = frozenset(
        {
            "text_column", "prompt", "prompt_name", "dimensions", "output_dtype", "normalize",
            "vectors", "kind", "sparse_top_k", "sparse_terms", "token_offsets",
        }
    )  # fmt: skip
    output_columns = frozenset({"embedding", "embedding_scale"})
    chunkings = ("chunk", "late-chunk", "pool")
    bei_route = "/v1/embeddings"

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        self._spec = spec
        self._dense: tuple[DenseColumn, ...] = ()
        if "dense" in spec.vectors:
            widths = spec.all_dimensions or (card.dimensions,)
            self._dense = dense_columns(widths, spec.output_dtypes)
        self._width = sum({column.first: column.width for column in self._dense}.values())
        sparse = "sparse" in spec.vectors
        self._sparse = SparseColumns(spec, tokenizer) if sparse else None
        self._multi, self._with_vectors = None, None
        if "multi" in spec.vectors and card.multi is not None:
            self._multi = MultiColumns(spec, card.multi.dimensions)
            self._with_vectors = vector_tokens(card, tokenizer, spec.kind or "", spec.max_length)
            self.token_values = card.multi.dimensions
        self._tokenizer = TextTokenizer(
            tokenizer, spec.max_length, spec.truncate, ids, offsets=spec.token_offsets
        )
        self.uses_ids = self._tokenizer.uses_ids

    @classmethod
    def check_request(cls, request: Request) -> None:
        for name in ("vectors", "dimensions", "output_dtype"):
            values = getattr(request, name)
            if len(set(values)) != len(values):
                raise UsageError(
                    f"--{name.replace('_', '-')} names {','.join(map(str, values))}: one of them "
                    "twice",
                    hint="name each once: it has one column",
                )

    @classmethod
    def check_model(cls, request: Request, card: ModelCard) -> None:
        vectors = cls.vectors(request, card)
        for kind, names in _OPTIONS.items():
            given = [name for name in names if not request.is_default(name)]
            if given and kind not in vectors:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} belongs to {kind} vectors, and those of "
                    f"this job are {', '.join(vectors)}",
                    hint=f"omit it, or give --vectors {','.join((kind, *vectors))}"
                    if kind in card.vectors
                    else "omit it",
                )
        if vectors == ("sparse",) and set(request.output_dtype) - {"float32", "float16"}:
            raise UsageError(
                f"--output-dtype {','.join(request.output_dtype)}: sparse_values are float32 or "
                "float16",
                hint="omit it, or give float16",
            )
        if vectors == ("sparse",) and len(request.output_dtype) > 1:
            raise UsageError(
                "--output-dtype names two types, and sparse vectors have one",
                hint="name one of them",
            )
        if request.kind is not None and not card.kinds and card.checkpoint.files.router is None:
            raise UsageError(
                f"--kind {request.kind}: {request.model} reads queries and documents alike",
                hint="omit it; where they differ in a prompt, give --prompt-name "
                f"({', '.join(sorted(card.modules.prompts)) or 'this model has none'})",
            )
        if wide := [width for width in request.dimensions if width > card.dimensions]:
            raise UsageError(
                f"--dimensions {wide[0]} is more than the {card.dimensions} of {request.model}",
                hint=f"give at most {card.dimensions}",
            )
        if "dense" in vectors:
            dense_columns(request.dimensions or (card.dimensions,), request.output_dtype)
        if "multi" in vectors and card.multi is not None:
            multi_columns(card.multi.dimensions, request.output_dtype)

    @classmethod
    def vectors(cls, request: Request, card: ModelCard) -> tuple[Vectors, ...]:
        """See `Task.vectors`; in one order, however they were named."""
        wanted = request.vectors or card.vectors[:1]
        if lacking := [kind for kind in wanted if kind not in card.vectors]:
            converted = [_CONVERT[kind] for kind in lacking if kind in _CONVERT]
            raise CheckpointError(
                f"{card.name} has no head for {' and '.join(lacking)} vectors: it gives "
                f"{' and '.join(card.vectors)} ones",
                hint=f"give --vectors {','.join(card.vectors)}, or another model"
                + (f". {'; '.join(converted)}" if card.config.family == "xlm-roberta" else ""),
            )
        return tuple(kind for kind in get_args(Vectors) if kind in wanted)

    @classmethod
    def columns_written(cls, request: Request, card: ModelCard) -> frozenset[str]:
        vectors, names = cls.vectors(request, card), set[str]()
        if "dense" in vectors:
            columns = dense_columns(request.dimensions or (card.dimensions,), request.output_dtype)
            names |= {field.name for column in columns for field in column.fields()}
        if "multi" in vectors and card.multi is not None:
            names |= multi_names(
                card.multi.dimensions, request.output_dtype, offsets=request.token_offsets
            )
        return frozenset(names.union(SPARSE_NAMES) if "sparse" in vectors else names)

    @classmethod
    def prompt(cls, request: Request, card: ModelCard) -> str:
        prompt = embed_prompt(request, card)
        left = cls.truncate(request, card) == "left"
        given = "--long-texts cut-start" if request.long_texts else "--truncate left"
        if prompt and left and card.multi is not None and card.multi.markers:
            raise UsageError(
                f"{given} would cut the marker {prompt.strip()} off long texts, without which "
                f"{request.model} was not trained",
                hint="use --long-texts cut-end or error",
            )
        if prompt and left and not card.modules.include_prompt:
            raise UsageError(
                f"{given} would cut the prompt off long texts, and the pooling of "
                f"{request.model} would then skip that many tokens of the text",
                hint="use --truncate right or error (--long-texts cut-end or error), or "
                "--prompt '' for no prompt",
            )
        return prompt

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        modules, vectors = card.modules, cls.vectors(request, card)
        found: dict[str, Choice[object]] = {}
        if not request.vectors and card.vectors != ("dense",):
            found["vectors"] = Choice(", ".join(vectors), _vectors_reason(card))
        router = card.checkpoint.files.router
        if request.kind is None and card.kind:
            kinds = card.kinds if router is None else router.kinds
            reason = f"the model's default, of {' and '.join(kinds)}"
            found["kind"] = Choice(card.kind, reason)
        if request.normalize is None and "dense" in vectors:
            unit = card.gives_unit_length(request.dimensions)
            reason = f"the model gives {'unit vectors' if unit else 'vectors of any length'}"
            found["normalize"] = Choice("yes" if unit else "no", reason)
        unnamed = request.prompt is None and request.prompt_name is None and request.kind is None
        if unnamed and modules.default_prompt_name:
            name = modules.default_prompt_name
            reason = f"the model's default prompt, named {name!r}"
            found["prompt"] = Choice(cls.prompt(request, card), reason)
        return found

    @classmethod
    def row_bytes(cls, request: Request, card: ModelCard) -> int:
        vectors, size = cls.vectors(request, card), 0.0
        if "dense" in vectors:
            widths = request.dimensions or (card.dimensions,)
            size = sum(column.row_bytes for column in dense_columns(widths, request.output_dtype))
        if "sparse" in vectors:
            dtype = sparse_dtype(request.output_dtype)
            terms, top_k = request.sparse_terms, request.sparse_top_k
            size += sparse_row_bytes(card.config.vocab_size, dtype, top_k, terms=terms)
        if "multi" in vectors and card.multi is not None:
            tokens = min(request.max_length or card.default_max_length, _WIDE_TOKENS)
            size += tokens * cls.token_bytes(request, card)
        return int(size) + _OTHER_BYTES

    @classmethod
    def token_bytes(cls, request: Request, card: ModelCard) -> float:
        if card.multi is None or "multi" not in cls.vectors(request, card):
            return 0.0
        width, offsets = card.multi.dimensions, request.token_offsets
        return bytes_of_token(width, request.output_dtype, offsets=offsets)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        column = rows.column(self._spec.text_column)
        return self.with_vectors(self._tokenizer.encode_column(column, self._spec.prompt))

    def with_vectors(self, tokens: Tokens) -> Tokens:
        """Tokens that know which of them have a vector, where each has one."""
        return tokens if self._with_vectors is None else self._with_vectors(tokens)

    def fields(self) -> list[pa.Field]:
        fields = [field for column in self._dense for field in column.fields()]
        fields += self._sparse.fields() if self._sparse is not None else []
        return fields + (self._multi.fields() if self._multi is not None else [])

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        vectors = outputs
        if failed.any() or outputs.shape != (tokens.rows, self._width):
            vectors = np.zeros((tokens.rows, self._width), dtype=np.float32)
            vectors[tokens.row_of] = outputs
            vectors[failed] = 0
        return [array for column in self._dense for array in column.arrays(vectors, failed)]

    def all_columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Outputs, failed: BoolArray
    ) -> list[pa.Array]:
        arrays = self.columns(rows, tokens, outputs.rows, failed) if self._dense else []
        if self._sparse is not None:
            given = outputs.lists_of("sparse", len(tokens.row_of))
            arrays += self._sparse.arrays(given, tokens.row_of, failed)
        if self._multi is not None:
            given = outputs.lists_of("multi", len(tokens.row_of))
            arrays += self._multi.arrays(given, tokens, failed)
        return arrays

    def problems(self, tokens: Tokens, outputs: Outputs) -> dict[int, str]:
        found = {}
        if "float16" in self._spec.output_dtypes:
            over = (np.abs(outputs.rows) > np.finfo(np.float16).max).any(axis=1)
            rows = output_rows(tokens, per_token=self.per_token)
            found = {int(row): FLOAT16_OVERFLOW for row in np.unique(rows[over])}
        if self._sparse is not None:
            given = outputs.lists_of("sparse", len(tokens.row_of))
            found |= self._sparse.problems(given, tokens.row_of)
        if self._multi is not None:
            given = outputs.lists_of("multi", len(tokens.row_of))
            found |= self._multi.problems(given, tokens.row_of)
        return found

    @classmethod
    def flaws(cls, table: pa.Table) -> Iterator[str]:
        yield from sparse_flaws(table)
        yield from multi_flaws(table)


def _vectors_reason(card: ModelCard) -> str:
    """Why the first kind of vectors was chosen."""
    others = card.vectors[1:]
    if others:
        return f"the model gives {' and '.join(others)} ones too: --vectors"
    return "the only ones that the model gives"
