"""Published families: recognise a checkpoint, read its settings, match its tensors.

A family reads `config.json` (old and new keys) and the names of the tensors, never the weights.
To add one: a layout in `tensor_names.py` if its names are new, a function in `bert.py` or
`llama.py`, a line in FAMILIES, and a golden in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.encoder.architecture import tensor_names
from pipeline.encoder.architecture.bert import bert, distilbert, gte, modernbert, mpnet
from pipeline.encoder.architecture.config_keys import Family, Tensors, config_errors
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.llama import gemma3, gemma3_with_images, llama, mistral
from pipeline.encoder.architecture.nomic import nomic
from pipeline.encoder.architecture.static import static
from pipeline.encoder.architecture.tensor_shapes import check_shapes
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import Config, labels, model_class
from pipeline.encoder.checkpoint.cross_encoder import CrossEncoder
from pipeline.encoder.checkpoint.multi_modules import COLBERT_CLASS
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    UNUSED_ANSWERS,
    UNUSED_POOLER,
    UNUSED_PREDICTION,
    UNUSED_PROJECTION,
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
# Of a SparseEncoder alone: other outputs of these families are transformers' and stay so.
SPLADE_FAMILIES: dict[str, Callable[[Config, Tensors], Family | None]] = {"distilbert": distilbert}
# The ends of the names of classes whose heads answer questions.
_ANSWERS = ("ForQuestionAnswering", "ForMultipleChoice")
# Those of which bei-jobs computes a head on the last token.
DECODERS = frozenset({"gemma3_text", "llama", "qwen2", "qwen3"})
Scores = Literal["score", "lm_head"]
_NO_PAIRS = CrossEncoder()


@dataclass(frozen=True, slots=True)
class Recognised:
    """A checkpoint of a known family whose tensors all match."""

    config: EncoderConfig
    matched: MatchedTensors


def recognise(
    checkpoint: Checkpoint, tensors: Tensors, cross_encoder: CrossEncoder = _NO_PAIRS
) -> Recognised | None:
    """The settings and tensors of a checkpoint; None if bei-jobs does not know its family.

    Args:
        checkpoint: whose config.json is read.
        tensors: of its files.
        cross_encoder: how it scores pairs, which decides the head of a decoder.

    Raises:
        CheckpointError: the family is known, but a setting is not supported, or a tensor is
            missing or left over; or the score needs a family that is not known.
    """
    if checkpoint.files.static:
        return Recognised(*static(checkpoint, tensors))
    scores = _scores(checkpoint.config, cross_encoder)
    recognised = _recognise(checkpoint, tensors, scores)
    if recognised is None and scores == "lm_head":
        raise CheckpointError(
            f"{checkpoint.name} scores pairs by the logits of tokens, which bei-jobs computes of "
            f"the model types {', '.join(sorted(DECODERS))} with plain or linear rotary positions",
            hint="use a copy that was converted to a sequence classifier, or another reranker",
        )
    return recognised


def _scores(config: Config, cross_encoder: CrossEncoder) -> Scores | None:
    """The head on a decoder's last token, None for the head that config.json names.

    A classifier gets it only with a chat template for pairs. Others stay with transformers, as
    before there were such templates: their outputs would have to be computed again for nothing.
    """
    if cross_encoder.score_tokens:
        return "lm_head"
    template = cross_encoder.template
    pairs = template is not None and template.names_roles and len(labels(config)) == 1
    return "score" if pairs and config.get("model_type") in DECODERS else None


def _recognise(
    checkpoint: Checkpoint, tensors: Tensors, scores: Scores | None
) -> Recognised | None:
    model_type = str(checkpoint.config.get("model_type", ""))
    build = FAMILIES.get(model_type)
    if checkpoint.files.splade:
        build = build or SPLADE_FAMILIES.get(model_type)
    if build is None:
        _refuse_nested(checkpoint)
        return None
    with config_errors(checkpoint):
        family = (
            build(checkpoint.config, tensors)
            if scores is None
            else _with_scores(build, checkpoint.config, tensors, scores)
        )
        if family is None:
            return None
        _check_sizes(family.config)
    name = model_class(checkpoint.config)
    more = [UNUSED_ANSWERS] * name.endswith(_ANSWERS) + [UNUSED_PROJECTION] * (
        name == COLBERT_CLASS
    )
    matched = _match(family, tensors, str(checkpoint.folder), more)
    return Recognised(family.config, _with_tied_head(family.config, matched, checkpoint))


def _with_tied_head(
    config: EncoderConfig, matched: MatchedTensors, checkpoint: Checkpoint
) -> MatchedTensors:
    """The tensors with the embeddings as output layer, where a language model has none of its own.

    An adapter may add to the output layer alone; what it adds to the embeddings is not added there.
    """
    name = "lm_head.weight"
    if config.head != "lm_head" or name in matched.sources:
        return matched
    (embeddings,) = matched.sources["tokens.weight"]
    head = checkpoint.files.adapted(name, embeddings)
    return replace(matched, sources={**matched.sources, name: (head,)})


def _refuse_nested(checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError for a model of several parts, one of which is for text."""
    config, file = checkpoint.config, checkpoint.folder / "config.json"
    if isinstance(config.get("text_config"), dict) and not {"hidden_size", "d_model"} & set(config):
        raise CheckpointError(
            f"{file} is that of a {one_line(config.get('model_type'))}, whose text model is nested "
            "in text_config; of such models bei-jobs computes gemma3",
            hint="save the text model by itself, with the config.json of its own class",
        )


def _with_scores(
    build: Callable[[Config, Tensors], Family | None],
    config: Config,
    tensors: Tensors,
    scores: Scores,
) -> Family | None:
    """A decoder with a head on its last token; None if bei-jobs does not compute the decoder."""
    if config["model_type"] not in DECODERS or config.get("final_logit_softcapping"):
        return None
    # As the decoder alone; CrossEncoder runs no code of a checkpoint, so it attends backwards.
    family = build({**config, "architectures": [], "auto_map": None}, tensors)
    if family is None or family.head_names:
        return None
    scored = replace(
        family.config,
        head=scores,
        head_pooling="lasttoken",
        labels=labels(config) if scores == "score" else ("score",),
    )
    # Without a matrix of its own, a language model reads its logits off the embeddings.
    default = config["model_type"] == "gemma3_text"
    tied = config.get("tie_word_embeddings", default) and "lm_head.weight" not in tensors
    names = {} if scores == "lm_head" and tied else tensor_names.HEADS[scores]
    return replace(family, config=scored, head_names=names)


def _check_sizes(config: EncoderConfig) -> None:
    """Raise ValueError if sizes contradict each other."""
    if config.head_dim < 1:
        raise ValueError(f"{config.heads} heads in a hidden size of {config.hidden_size}")
    if config.heads % config.kv_heads:
        raise ValueError(f"{config.heads} heads, not a multiple of {config.kv_heads} key heads")
    for name, settings in (("windows", config.windows), ("rotary settings", config.ropes)):
        if len(settings) not in (0, config.layers):
            raise ValueError(f"{name} of {len(settings)} layers where there are {config.layers}")


def _match(
    family: Family, tensors: Tensors, where: str, more: list[re.Pattern[str]]
) -> MatchedTensors:
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
        unused += more
    matched = match(names, tensors, unused, where)
    check_floats((info for sources in matched.sources.values() for info in sources), where)
    check_shapes(family.config, matched, where)
    return matched
