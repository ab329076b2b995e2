"""From a model card to callables: the encoder in any precision, and the head that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.architecture.sparse_head import MAX_TERMS, SparseHead
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.safetensors_headers import MatchedTensors
from pipeline.encoder.model.encoder import Encoder
from pipeline.encoder.model.heads import ClassifierHead, LogitsHead, SentenceHead, TokenLogitHead
from pipeline.encoder.model.late_chunks import LateChunkHead
from pipeline.encoder.model.multi_heads import TokenVectorHead
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.read_weights import load_rows, load_weights
from pipeline.encoder.model.sparse_heads import (
    TermHead,
    TermTable,
    TokenWeightHead,
    VocabularyHead,
)
from pipeline.encoder.model.token_table import NoTable, TokenTable
from pipeline.encoder.model.vectors_head import ListHead, VectorsHead
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError, UsageError
from pipeline.spec import JobSpec, Vectors


class ForwardPass(Protocol):
    """An encoder in one precision on one device.

    Called with a packed batch it returns the hidden states that the head reads, [T, E] or [S, E],
    logits if the model ends in its own classifier, or means, [S, E], of a table of token vectors.
    """

    @property
    def capturable(self) -> bool:
        """Whether a call never waits for the device, so that a CUDA graph can hold it."""
        ...

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Compute one batch."""
        ...


_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # of everything except the products
}
# Tokens of XLM-R that weigh nothing, as FlagEmbedding leaves them out.
_NO_TERMS = ("<s>", "</s>", "<pad>", "<unk>")
# bei-jobs' own names of the head's tensors; all others are the encoder's.
_HEAD_TENSORS = ("projection", "head_dense", "head_norm", "classifier", "lm_head")


class Head(Protocol):
    """What turns the encoder's output into rows, in float32."""

    output_size: int  # width of a row
    reads: Reads  # the tokens whose hidden states it takes

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor | tuple[Tensor, ...]:
        """Hidden states that it reads → [S, output_size], [S], or [T, output_size] per token;
        with lists, as `VectorsHead` returns them.
        """


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a user may change about the vectors of a model.

    Attributes:
        dimensions: leading ones of a vector to keep, none for all; of several, side by side.
        normalize: whether vectors have unit length, None for what the checkpoint does.
        prompt_tokens: leading tokens of every sequence that belong to the prompt
            (`tokenizer.prompt_tokens`); omitted from pooling where the checkpoint says so.
        late_chunks: whether batches have spans, each of which gives a dense vector.
        vectors: the kinds of vectors that are computed, of those in `card.vectors`.
        sparse_top_k: terms of a vector that are kept; None for one more than `MAX_TERMS`.
    """

    dimensions: tuple[int, ...] = ()
    normalize: bool | None = None
    prompt_tokens: int = 0
    late_chunks: bool = False
    vectors: tuple[Vectors, ...] = ("dense",)
    sparse_top_k: int | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, spec: JobSpec, prompt_tokens: int = 0) -> HeadOptions:
        """The options of a job; `prompt_tokens` are not counted in its spec."""
        return cls(
            spec.all_dimensions,
            spec.normalize,
            prompt_tokens,
            late_chunks=spec.chunking == "late-chunk",
            vectors=spec.vectors,
            sparse_top_k=spec.sparse_top_k,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded head, and a function that loads the encoder."""

    head: Head
    load: Callable[[str], ForwardPass]  # precision → encoder


def open_model(card: ModelCard, device: torch.device, options: HeadOptions) -> Model:
    """Load the head of a model.

    Raises:
        CheckpointError: the weights are damaged.
        UsageError: an option does not fit the model.
    """
    if card.head != "embedding" and options != HeadOptions():
        raise UsageError("dimensions, normalize and prompts belong to embedding models only")
    if card.matched is None:
        return _transformers(card, device, options)
    if card.config.static:
        return _static(card, card.matched, device, options)
    matched = card.matched
    head: Head
    if card.config.head == "lm_head":
        head = TokenLogitHead(_logit_rows(card, matched, device))
    else:
        weights = _weights(matched, device, "float32", of_head=True)
        head = ClassifierHead(card.config, weights)
        if card.head == "embedding":
            head = _vectors_head(card, weights, device, options)

    def load(precision: str) -> ForwardPass:
        return Encoder(
            card.config,
            _weights(matched, device, precision, of_head=False),
            device,
            _DTYPES[precision],
            quantize=precision == "int8",
            reads=head.reads,
        )

    return Model(head, load)


def _transformers(card: ModelCard, device: torch.device, options: HeadOptions) -> Model:
    """A model that transformers computes."""
    from pipeline.encoder.model.transformers_model import TransformersModel  # takes seconds

    head: Head = LogitsHead(card.config, per_token=card.head == "token_classifier")
    if card.head == "embedding":
        head = _vectors_head(card, {}, device, options)

    def load(precision: str) -> ForwardPass:
        if precision == "int8":
            raise UsageError(
                f"{card.name} is computed by transformers, for which bei-jobs has no int8",
                hint="use --precision float32",
            )
        return TransformersModel(card, device, _DTYPES[precision], head.reads)

    return Model(head, load)


def _static(
    card: ModelCard, matched: MatchedTensors, device: torch.device, options: HeadOptions
) -> Model:
    """A table of token vectors."""

    def load(precision: str) -> ForwardPass:
        if precision == "int8":
            raise UsageError(
                f"{card.name} is a table of token vectors: it multiplies nothing, so int8 would "
                "save nothing",
                hint="use --precision float32, and --output-dtype int8 for small vectors",
            )
        if card.modules.sparse is not None:
            return NoTable()
        with _damage(matched, list(matched.sources)):
            return TokenTable(matched, device, _DTYPES[precision])

    return Model(_vectors_head(card, {}, device, options), load)


def _vectors_head(
    card: ModelCard, weights: dict[str, Tensor], device: torch.device, options: HeadOptions
) -> Head:
    """The head of the kinds of vectors that are wanted."""
    if options.vectors == ("dense",):
        head = _sentence_head(card, weights, device, options)
        return LateChunkHead(head) if options.late_chunks else head
    assert not options.late_chunks
    dense, lists = None, list[ListHead]()
    if "dense" in options.vectors:
        dense = _sentence_head(card, weights, device, options)
    if "sparse" in options.vectors and card.sparse is not None:
        lists.append(_term_head(card, card.sparse, device, options.sparse_top_k))
    if "multi" in options.vectors and card.multi is not None:
        lists.append(TokenVectorHead(card.multi, device))
    return VectorsHead(dense, lists)


def _term_head(
    card: ModelCard, sparse: SparseHead, device: torch.device, top_k: int | None
) -> TermHead:
    # One more than is allowed, so that a sequence with too many is noticed.
    most = top_k or MAX_TERMS + 1
    names = list(sparse.tensors)
    matched = MatchedTensors({name: (info,) for name, info in sparse.tensors.items()}, ())
    with _damage(matched, names):
        weights: Mapping[str, Tensor] = load_weights(matched, names, device, torch.float32)
    if sparse.kind == "vocabulary":
        return VocabularyHead(sparse, weights, most)
    if sparse.kind == "table":
        return TermTable(weights, most)
    tokenizer = load_tokenizer(card)
    special = (tokenizer.token_to_id(token) for token in _NO_TERMS)
    return TokenWeightHead(weights, tuple(i for i in special if i is not None), most)


def _sentence_head(
    card: ModelCard, weights: dict[str, Tensor], device: torch.device, options: HeadOptions
) -> SentenceHead:
    return SentenceHead(
        card,
        weights,
        device,
        dimensions=options.dimensions,
        normalize=options.normalize,
        prompt_tokens=0 if options.late_chunks else options.prompt_tokens,
        reads_all=options.vectors != ("dense",),
    )


def _logit_rows(card: ModelCard, matched: MatchedTensors, device: torch.device) -> Tensor:
    """The rows that give the logits of the score's tokens, [1 or 2, E] float32."""
    name = "lm_head.weight"
    (source,) = matched.sources[name]
    with _damage(matched, [name]):
        return load_rows(source, card.cross_encoder.score_tokens, device)


def _weights(
    matched: MatchedTensors, device: torch.device, precision: str, *, of_head: bool
) -> dict[str, Tensor]:
    names = [
        name for name in matched.sources if (name.rpartition(".")[0] in _HEAD_TENSORS) == of_head
    ]
    with _damage(matched, names):
        return load_weights(matched, names, device, _DTYPES[precision])


@contextmanager
def _damage(matched: MatchedTensors, names: list[str]) -> Iterator[None]:
    """Turn errors of damaged files into one that names them."""
    try:
        yield
    except SafetensorError as error:
        files = sorted({str(s.file) for name in names for s in matched.sources[name]})
        raise CheckpointError(
            f"{' or '.join(files)} is damaged: {error}", hint=DOWNLOAD_AGAIN
        ) from error
