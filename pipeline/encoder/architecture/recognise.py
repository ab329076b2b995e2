"""Published families: recognise a checkpoint, read its settings, match its tensors.

A family reads `config.json` (old and new keys) and the names of the tensors, never the weights.
To add one: a layout in `tensor_names.py` if its names are new, a function in `bert.py` or
`llama.py`, a line in FAMILIES, and a golden in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.encoder.architecture import tensor_names
from pipeline.encoder.architecture.bert import bert, gte, modernbert, mpnet
from pipeline.encoder.architecture.config_keys import Family, Tensors, config_errors
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.llama import gemma3, gemma3_with_images, llama, mistral
from pipeline.encoder.architecture.nomic import nomic
from pipeline.encoder.architecture.static import static
from pipeline.encoder.architecture.tensor_shapes import check_shapes
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import Config, model_class
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    UNUSED_ANSWERS,
    UNUSED_POOLER,
    UNUSED_PREDICTION,
    UNUSED_TOKEN_WEIGHTS,
    MatchedTensors,
    check_floats,
    match,
)
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.errors import CheckpointError

# model_type of config.json → its family.
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
    "gemma3": gemma3_with_images,
    "llama": llama,
    "llama_bidirec": llama,
    "mistral": mistral,
    "qwen2": llama,
    "qwen3": llama,
}
# The ends of the names of classes whose heads answer questions.
_ANSWERS = ("ForQuestionAnswering", "ForMultipleChoice")


@dataclass(frozen=True, slots=True)
class Recognised:
    """A checkpoint of a known family whose tensors all match."""

    config: EncoderConfig
    matched: MatchedTensors


def recognise(checkpoint: Checkpoint, tensors: Tensors) -> Recognised | None:
    """The settings and tensors of a checkpoint; None if bei-jobs does not know its family.

    Raises:
        CheckpointError: the family is known, but a setting is not supported, or a tensor is
            missing or left over.
    """
    if checkpoint.files.static:
        return Recognised(*static(checkpoint, tensors))
    build = FAMILIES.get(str(checkpoint.config.get("model_type", "")))
    if build is None:
        _refuse_nested(checkpoint)
        return None
    with config_errors(checkpoint):
        family = build(checkpoint.config, tensors)
        if family is None:
            return None
        _check_sizes(family.config)
    answers = model_class(checkpoint.config).endswith(_ANSWERS)
    return Recognised(family.config, _match(family, tensors, str(checkpoint.folder), answers))


def _refuse_nested(checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError for a model of several parts, one of which is for text."""
    config, file = checkpoint.config, checkpoint.folder / "config.json"
    if isinstance(config.get("text_config"), dict) and not {"hidden_size", "d_model"} & set(config):
        raise CheckpointError(
            f"{file} is that of a {one_line(config.get('model_type'))}, whose text model is nested "
            "in text_config; of such models bei-jobs computes gemma3",
            hint="save the text model by itself, with the config.json of its own class",
        )


def _check_sizes(config: EncoderConfig) -> None:
    """Raise ValueError if sizes contradict each other."""
    if config.head_dim < 1:
        raise ValueError(f"{config.heads} heads in a hidden size of {config.hidden_size}")
    if config.heads % config.kv_heads:
        raise ValueError(f"{config.heads} heads, not a multiple of {config.kv_heads} key heads")
    for name, settings in (("windows", config.windows), ("rotary settings", config.ropes)):
        if len(settings) not in (0, config.layers):
            raise ValueError(f"{name} of {len(settings)} layers where there are {config.layers}")


def _match(family: Family, tensors: Tensors, where: str, answers: bool) -> MatchedTensors:
    anchor = family.layout.once["tokens"]
    prefix = next((p for p in family.layout.prefixes if f"{p}{anchor}" in tensors), "")
    names = tensor_names.expand(
        family.layout, family.config.layers, prefix, family.head_names, family.skip
    )
    unused = [*(pattern for pattern, _ in UNUSED), *family.unused]
    if "head_dense.weight" not in names or family.config.head != "pooler":
        unused.append(UNUSED_POOLER)
    if family.config.head == "none":
        by_family = {"modernbert": UNUSED_PREDICTION, "gte": UNUSED_TOKEN_WEIGHTS}
        unused += [p for family_name, p in by_family.items() if family_name == family.config.family]
        unused += [UNUSED_ANSWERS] * answers
    matched = match(names, tensors, unused, where)
    check_floats((info for sources in matched.sources.values() for info in sources), where)
    check_shapes(family.config, matched, where)
    return matched
