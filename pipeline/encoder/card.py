"""What a checkpoint resolves to, without loading a weight or importing torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.encoder.architecture import transformers_config
from pipeline.encoder.architecture.config_keys import Config, architecture, labels
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.recognise import load_family
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.safetensors_headers import parameters, read_tensors
from pipeline.encoder.checkpoint.sentence_modules import (
    DenseModule,
    NormalizeModule,
    SentenceModules,
    read_modules,
)
from pipeline.encoder.checkpoint.tokenizer import max_length
from pipeline.errors import CheckpointError, UsageError

TASKS = ("embed", "rerank", "classify", "tag")
PRECISIONS = ("auto", "float32", "float16", "bfloat16", "int8")


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
    if precision == "int8" and device != "cpu":
        raise UsageError(
            f"int8 is for a CPU; the device is {device}", hint="Use --precision auto on a GPU."
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
    check_task(checkpoint, task, loaded.encoder if loaded else None)
    encoder = loaded.encoder if loaded else transformers_config.settings(checkpoint, task)
    modules = read_modules(checkpoint.path, checkpoint.config)
    tensors = read_tensors(checkpoint.folder)
    config = checkpoint.config
    facts: dict[str, Any] = {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "fingerprint": checkpoint.fingerprint,
        "task": task,
        "family": encoder.family,
        "architecture": architecture(config),
        "parameters": parameters(tensors.values()),
        "tensors": len(tensors),
        "unused_tensors": list(loaded.matched.unused) if loaded else [],
        "dtype": "/".join(sorted({t.dtype for t in tensors.values() if "I" not in t.dtype})),
        "max_length": max_length(checkpoint, modules, encoder),
        "uses_type_ids": encoder.token_types > 1,
        "gpu_precision": encoder.half,
        "encoder": asdict(encoder),
    }
    if task == "embed":
        return facts | _embed_facts(modules, encoder)
    return facts | {
        "labels": list(encoder.labels),
        "multi_label": encoder.multi_label,
        "regression": encoder.regression,
    }


def _embed_facts(modules: SentenceModules, encoder: EncoderConfig) -> dict[str, Any]:
    return {
        "dimensions": embedding_size(modules, encoder),
        "pooling": list(modules.pooling),
        "normalize": modules.normalize,
        "modules": [type(step).__name__.removesuffix("Module") for step in modules.steps],
        "include_prompt": modules.include_prompt,
        "prompts": dict(modules.prompts),
        "default_prompt_name": modules.default_prompt_name,
    }


def embedding_size(modules: SentenceModules, encoder: EncoderConfig) -> int:
    """Width of the vectors that a checkpoint publishes.

    Raises:
        CheckpointError: a module takes vectors of another width than the one before it gives.
    """
    size = encoder.output_size * len(modules.pooling)
    for step in modules.steps:
        if isinstance(step, NormalizeModule):
            continue
        takes = step.in_features if isinstance(step, DenseModule) else step.dimension
        if takes != size:
            raise CheckpointError(
                f"the module in {step.folder} takes vectors of {takes} dimensions, and {size} "
                "reach it",
                hint="The module files do not belong to each other or to this encoder.",
            )
        size = step.out_features if isinstance(step, DenseModule) else size
    return size
