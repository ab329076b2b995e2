"""Published families as data: how to recognise one, its settings, its tensors.

A family reads `config.json` (old and new keys) and the names of the tensors, never the weights.
To add one: a layout in `tensor_names.py` if its names are new, a function in `bert_families.py` or
`llama_families.py`, a line in FAMILIES, and a golden in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.encoder.architecture import tensor_names
from pipeline.encoder.architecture.bert import bert, gte, modernbert, mpnet, nomic
from pipeline.encoder.architecture.config_keys import Family, Tensors, explained
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.llama import gemma3, llama
from pipeline.encoder.architecture.tensor_shapes import check_shapes
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import Config
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    UNUSED_POOLER,
    UNUSED_PREDICTION,
    UNUSED_TOKEN_WEIGHTS,
    Matched,
    check_floats,
    match,
)

#: model_type of config.json → its family.
FAMILIES: dict[str, Callable[[Config, Tensors], Family | None]] = {
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "camembert": bert,
    "mpnet": mpnet,
    "nomic_bert": nomic,
    "gte": gte,
    "new": gte,
    "modernbert": modernbert,
    "gemma3_text": gemma3,
    "llama": llama,
    "llama_bidirec": llama,
    "qwen2": llama,
    "qwen3": llama,
}


@dataclass(frozen=True, slots=True)
class Recognised:
    """A checkpoint of a known family whose tensors all have a place."""

    config: EncoderConfig
    matched: Matched


def recognise(checkpoint: Checkpoint, tensors: Tensors) -> Recognised | None:
    """The settings and tensors of a checkpoint; None where its family is not one of ours.

    Raises:
        CheckpointError: the family is ours but a setting is not supported, or a tensor is missing
            or left over.
    """
    build = FAMILIES.get(str(checkpoint.config.get("model_type", "")))
    if build is None:
        return None
    with explained(checkpoint):
        family = build(checkpoint.config, tensors)
        if family is None:
            return None
        _check_sizes(family.encoder)
    return Recognised(family.encoder, _match(family, tensors, str(checkpoint.folder)))


def _check_sizes(encoder: EncoderConfig) -> None:
    """Raise ValueError where sizes that are fine alone do not go together."""
    if encoder.head_dim < 1:
        raise ValueError(f"{encoder.heads} heads in a hidden size of {encoder.hidden_size}")
    if encoder.heads % encoder.kv_heads:
        raise ValueError(f"{encoder.heads} heads, no multiple of {encoder.kv_heads} key heads")
    for name, found in (("windows", encoder.windows), ("rotary settings", encoder.ropes)):
        if len(found) not in (0, encoder.layers):
            raise ValueError(f"{name} of {len(found)} layers where there are {encoder.layers}")


def _match(family: Family, tensors: Tensors, where: str) -> Matched:
    anchor = family.layout.once["tokens"]
    prefix = next((p for p in family.layout.prefixes if f"{p}{anchor}" in tensors), "")
    names = tensor_names.expand(
        family.layout, family.encoder.layers, prefix, family.head_names, family.skip
    )
    unused = [pattern for pattern, _ in UNUSED]
    if "head_dense.weight" not in names or family.encoder.head != "pooler":
        unused.append(UNUSED_POOLER)
    if family.encoder.head == "none":
        of_others = {"modernbert": UNUSED_PREDICTION, "gte": UNUSED_TOKEN_WEIGHTS}
        unused += [p for kind, p in of_others.items() if kind == family.encoder.family]
    matched = match(names, tensors, unused, where)
    check_floats((source for each in matched.sources.values() for source in each), where)
    check_shapes(family.encoder, matched, where)
    return matched
