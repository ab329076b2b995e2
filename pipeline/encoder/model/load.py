"""From a checkpoint to callables: the encoder in any precision, and the head that follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads
from pipeline.encoder.architecture.recognise import Loaded, load_family
from pipeline.encoder.card import check_task
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.sentence_modules import read_modules
from pipeline.encoder.model.encoder import Encoder, load_weights
from pipeline.encoder.model.heads import ClassifierHead, LogitsHead, SentenceHead
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.errors import CheckpointError, UsageError

#: A packed batch → the hidden states that the head reads, [T, E] or [S, E], or logits where the
#: model has a head of its own.
ForwardPass = Callable[[PackedBatch], Tensor]

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # of everything but the products
}
# Our names of the tensors that the head reads; everything else is the encoder's.
_HEAD_TENSORS = ("projection", "head_dense", "head_norm", "classifier")


class Head(Protocol):
    """What turns the encoder's output into rows, in float32."""

    output_size: int
    reads: Reads  # the hidden states that it wants

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """What it reads → [S, output_size], [S], or [T, output_size] of a tagger."""


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a user may change about the vectors of a model."""

    dimensions: int | None = None
    normalize: bool | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint that fits its task: settings, head, and the encoder on demand."""

    encoder: EncoderConfig
    head: Head
    load: Callable[[str], ForwardPass]  # by precision


def open_model(
    checkpoint: Checkpoint, task: str, device: torch.device, options: HeadOptions
) -> Model:
    """Recognise a checkpoint and load its head.

    Raises:
        CheckpointError: the model does not fit the task or its files do not fit each other.
        UsageError: an option does not fit the model.
    """
    loaded = load_family(checkpoint)
    check_task(checkpoint, task, loaded.encoder if loaded else None)
    if task != "embed" and options != HeadOptions():
        raise UsageError(f"dimensions, normalize and prompts belong to embed, not to {task}")
    if loaded is None:
        return _foreign(checkpoint, task, device, options)
    encoder = loaded.encoder
    weights = _weights(loaded, device, "float32", of_head=True)
    head: Head = ClassifierHead(encoder, weights)
    if task == "embed":
        head = _sentence_head(checkpoint, encoder, weights, device, options)

    def load(precision: str) -> ForwardPass:
        parts = _weights(loaded, device, precision, of_head=False)
        return Encoder(
            encoder,
            parts,
            device,
            _DTYPES[precision],
            quantize=precision == "int8",
            reads=head.reads,
        )

    return Model(encoder, head, load)


def _foreign(
    checkpoint: Checkpoint, task: str, device: torch.device, options: HeadOptions
) -> Model:
    """A model that transformers computes."""
    from pipeline.encoder.architecture import transformers_config
    from pipeline.encoder.model import transformers_model

    encoder = transformers_config.settings(checkpoint, task)
    head: Head = LogitsHead(encoder, per_token=task == "tag")
    if task == "embed":
        head = _sentence_head(checkpoint, encoder, {}, device, options)

    def load(precision: str) -> ForwardPass:
        if precision == "int8":
            raise UsageError(
                f"{checkpoint.name} is computed by transformers, which has no int8 here",
                hint="Use --precision float32.",
            )
        return transformers_model.TransformersModel(
            checkpoint, task, device, _DTYPES[precision], head.reads
        )

    return Model(encoder, head, load)


def _sentence_head(
    checkpoint: Checkpoint,
    encoder: EncoderConfig,
    weights: dict[str, Tensor],
    device: torch.device,
    options: HeadOptions,
) -> SentenceHead:
    return SentenceHead(
        encoder,
        read_modules(checkpoint.path, checkpoint.config),
        checkpoint.path,
        weights,
        device,
        dimensions=options.dimensions,
        normalize=options.normalize,
        prompt_tokens=options.prompt_tokens,
    )


def _weights(
    loaded: Loaded, device: torch.device, precision: str, *, of_head: bool
) -> dict[str, Tensor]:
    matched = loaded.matched
    names = [
        name for name in matched.sources if (name.rpartition(".")[0] in _HEAD_TENSORS) == of_head
    ]
    try:
        return load_weights(matched, names, device, _DTYPES[precision])
    except SafetensorError as error:
        files = sorted({str(s.file) for name in names for s in matched.sources[name]})
        raise CheckpointError(
            f"{' or '.join(files)} is damaged: {error}",
            hint="Download the checkpoint again.",
        ) from error
