"""Load a model of transformers so that no weight is random or dropped unnoticed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch

from pipeline.encoder.architecture.config_keys import RESTORE_CONFIG
from pipeline.encoder.architecture.transformers_config import LIST_MODELS
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.config_values import model_class
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    UNUSED_POOLER,
    list_some,
)
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.errors import CheckpointError

logger = logging.getLogger(__name__)

_ENCODER = "EncoderModel"
# Weights that may be missing, as of a pooler that nothing reads, are no more than that.
_SLACK_PARAMETERS = 20_000_000


def load_weights(card: ModelCard, config: Any, dtype: torch.dtype) -> Any:
    """Load the class of transformers that has the card's head.

    Raises:
        CheckpointError: transformers cannot load it, a tensor is missing, or one is left over that
            belongs to no head of the class that config.json names.
    """
    import transformers

    checkpoint = card.checkpoint
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        auto = _auto_class(card, config)
        with torch.device("meta"):
            _check_parameters(card, auto.from_config(config, trust_remote_code=False))
        model, info = auto.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except CheckpointError:
        raise
    except Exception as error:  # transformers validates sizes with its own kinds of errors
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{checkpoint.name}: transformers cannot load it: {one_line(error)}",
            hint=LIST_MODELS,
        ) from error
    _check_keys(card, config, info)
    return model


def _auto_class(card: ModelCard, config: Any) -> Any:
    """What loads the class that has the head; of an encoder-decoder, its encoder."""
    import transformers

    if card.head == "sequence_classifier":
        return transformers.AutoModelForSequenceClassification
    if card.head == "token_classifier":
        return transformers.AutoModelForTokenClassification
    if not (config.is_encoder_decoder or model_class(card.checkpoint.config).endswith(_ENCODER)):
        return transformers.AutoModel
    if type(config) not in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise CheckpointError(
            f"{card.name}: a {config.model_type} is an encoder with a decoder, and transformers "
            "has no model of the encoder alone",
            hint=LIST_MODELS,
        )
    return transformers.AutoModelForTextEncoding


def _check_parameters(card: ModelCard, empty: Any) -> None:
    """Refuse a config of a far larger model than the files hold.

    transformers fills every missing weight with random numbers before it says which are missing.
    """
    wanted = sum(parameter.numel() for parameter in empty.parameters())
    if wanted > 2 * card.parameters + _SLACK_PARAMETERS:
        raise CheckpointError(
            f"{card.checkpoint.folder / 'config.json'} describes {wanted:,} parameters, but the "
            f"weights have {card.parameters:,}",
            hint=RESTORE_CONFIG,
        )


def _check_keys(card: ModelCard, config: Any, info: dict[str, Any]) -> None:
    """Raise unless every weight is the checkpoint's, and every tensor the model's or its head's."""
    checkpoint, name = card.checkpoint, model_class(card.checkpoint.config)
    unused = [pattern for pattern, _ in UNUSED]
    # The pooler of a sequence classifier decides its logits.
    optional = [*unused, UNUSED_POOLER] if card.head != "sequence_classifier" else unused
    missing = _unlike(info["missing_keys"], optional)
    left_over = _unlike(info["unexpected_keys"], [*unused, UNUSED_POOLER])
    dropped: list[str] = []
    if card.head == "embedding" and left_over:
        of_class = _tensors_of_class(name, config)
        dropped = [tensor for tensor in left_over if tensor in of_class]
        left_over = [tensor for tensor in left_over if tensor not in of_class]
    mismatched = sorted(str(key[0]) for key in info.get("mismatched_keys", ()))
    kinds = {"missing": missing, "left over": left_over, "of another shape": mismatched}
    if problems := [f"{kind}: {list_some(names)}" for kind, names in kinds.items() if names]:
        raise CheckpointError(
            f"{checkpoint.name}: transformers loads it as {checkpoint.config.get('model_type')!r} "
            f"but the tensors do not match; {'; '.join(problems)}",
            hint="choose another checkpoint: this one probably needs code of its own, which "
            "bei-jobs never runs",
        )
    if dropped and card.sparse is None:
        logger.warning(
            "%s: no vector depends on the head of %s, which is not used: %s",
            checkpoint.name, name, list_some(dropped),
        )  # fmt: skip


def _unlike(names: Iterable[str], patterns: list[re.Pattern[str]]) -> list[str]:
    """The names that no pattern matches."""
    return sorted(name for name in names if not any(p.search(name) for p in patterns))


def _tensors_of_class(name: str, config: Any) -> frozenset[str]:
    """Names of the tensors of the class that a checkpoint was saved from, head and all.

    Empty for a class that is not one of transformers' for this config.
    """
    import transformers

    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return frozenset()
    if not isinstance(config, found.config_class or ()):
        return frozenset()
    with torch.device("meta"):
        return frozenset(found(config).state_dict())
