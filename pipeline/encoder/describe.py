"""What a checkpoint resolves to, without loading a weight or importing torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.encoder.checkpoint import Checkpoint
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.families import load_family
from pipeline.encoder.family import Config, architecture, labels, multi_label
from pipeline.encoder.modules import DenseModule, SentenceModules, read_modules
from pipeline.encoder.tensors import parameters, read_tensors
from pipeline.encoder.tokenizer import max_length
from pipeline.errors import CheckpointError, UsageError

TASKS = ("embed", "rerank", "classify", "tag")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
_TOKEN_HEADS = ("tokens", "prediction_tokens")


def tasks_of(config: Config, encoder: EncoderConfig | None) -> tuple[str, ...]:
    """The tasks that a checkpoint can do, by the head that it was saved with."""
    name = architecture(config)
    classes = len(encoder.labels if encoder else labels(config))
    if name.endswith("ForTokenClassification"):
        return ("tag",)
    if name.endswith("ForSequenceClassification"):
        return ("rerank", "classify") if classes == 1 else ("classify",)
    return ("embed",)


def check_task(checkpoint: Checkpoint, task: str, encoder: EncoderConfig | None) -> None:
    """Raise where a model cannot do a task.

    Raises:
        UsageError: there is no such task.
        CheckpointError: the model was not saved with the head that the task needs.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}", hint=f"Tasks: {', '.join(TASKS)}.")
    able = tasks_of(checkpoint.config, encoder)
    if task not in able:
        kind = {
            "embed": "an embedding model: it has no classifier",
            "tag": "a token classifier",
            "rerank": "a reranker: a sequence classifier with one class",
            "classify": "a sequence classifier with several classes",
        }[able[0]]
        raise CheckpointError(
            f"{checkpoint.name} cannot {task}: it is {kind}",
            hint=f"Use --task {' or '.join(able)}, or another model.",
        )


def resolve_precision(precision: str, encoder: EncoderConfig, device: str) -> str:
    """The precision to compute in; `auto` is float32 on a CPU and 16 bits on a GPU.

    Raises:
        UsageError: no such precision, or one in which this family overflows.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}", hint=f"One of {', '.join(PRECISIONS)}.")
    if precision == "float16" and encoder.float16_overflows:
        raise UsageError(
            f"{encoder.family} overflows in float16", hint="Use --precision bfloat16 or float32."
        )
    if precision != "auto":
        return precision
    return encoder.half if device.startswith("cuda") else "float32"


def describe(checkpoint: Checkpoint, task: str) -> dict[str, Any]:
    """What a model computes, as JSON values: the identity of its outputs, and what users see.

    Raises:
        CheckpointError: the model does not fit the task, or its files do not fit each other.
    """
    loaded = load_family(checkpoint)
    encoder = loaded.encoder if loaded else None
    check_task(checkpoint, task, encoder)
    modules = read_modules(checkpoint.path, checkpoint.config)
    tensors = read_tensors(checkpoint.folder)
    config = checkpoint.config
    facts: dict[str, Any] = {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "fingerprint": checkpoint.fingerprint,
        "task": task,
        "family": encoder.family if encoder else f"transformers/{config.get('model_type')}",
        "architecture": architecture(config),
        "parameters": parameters(tensors.values()),
        "tensors": len(tensors),
        "unused_tensors": list(loaded.matched.unused) if loaded else [],
        "dtype": "/".join(sorted({t.dtype for t in tensors.values() if "I" not in t.dtype})),
        "max_length": max_length(checkpoint, modules, encoder),
        "uses_type_ids": uses_type_ids(checkpoint, encoder),
        "encoder": asdict(encoder) if encoder else None,
    }
    return facts | (
        _embed_facts(modules, encoder, config)
        if task == "embed"
        else {
            "labels": list(encoder.labels if encoder else labels(config)),
            "multi_label": multi_label(config),
        }
    )


def _embed_facts(
    modules: SentenceModules, encoder: EncoderConfig | None, config: Config
) -> dict[str, Any]:
    return {
        "dimensions": embedding_size(modules, encoder, config),
        "pooling": list(modules.pooling),
        "normalize": modules.normalize,
        "modules": [type(step).__name__.removesuffix("Module") for step in modules.steps],
        "include_prompt": modules.include_prompt,
        "prompts": dict(modules.prompts),
        "default_prompt_name": modules.default_prompt_name,
    }


def embedding_size(modules: SentenceModules, encoder: EncoderConfig | None, config: Config) -> int:
    """Width of the vectors that a checkpoint publishes."""
    size = (encoder.projection or encoder.hidden_size) if encoder else int(config["hidden_size"])
    size *= len(modules.pooling)
    for step in modules.steps:
        if isinstance(step, DenseModule):
            size = step.out_features
    return size


def uses_type_ids(checkpoint: Checkpoint, encoder: EncoderConfig | None) -> bool:
    """Whether the second text of a pair carries token type 1."""
    if encoder is None:
        return int(checkpoint.config.get("type_vocab_size", 0)) > 1
    return encoder.token_types > 1
