"""Architectures that are not ours: what transformers' config says, before anything is loaded."""

from __future__ import annotations

from typing import Any

from pipeline.encoder.architecture.config_keys import explained
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import head_kind, labels, multi_label, regression
from pipeline.errors import CheckpointError


def settings(checkpoint: Checkpoint) -> EncoderConfig:
    """What the engine needs to know about a foreign model, in our words.

    Raises:
        CheckpointError: it needs remote code, or transformers does not know it.
    """
    config = read_config(checkpoint)
    with explained(checkpoint):
        return _settings(checkpoint, config)


def _settings(checkpoint: Checkpoint, config: Any) -> EncoderConfig:
    hidden = int(getattr(config, "hidden_size", 0) or config.d_model)
    heads = int(getattr(config, "num_attention_heads", 1))
    return EncoderConfig(
        family=f"transformers/{config.model_type}",
        vocab_size=int(config.vocab_size),
        hidden_size=hidden,
        intermediate_size=int(getattr(config, "intermediate_size", 0) or 0),
        layers=int(getattr(config, "num_hidden_layers", 0)),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        norm="layer",
        norm_eps=0.0,
        norm_placement="post",
        embedding_norm=False,
        final_norm=False,
        activation="gelu",
        gated=False,
        token_types=int(getattr(config, "type_vocab_size", 0) or 0),
        labels=() if head_kind(checkpoint.config) == "embedding" else labels(checkpoint.config),
        multi_label=multi_label(checkpoint.config),
        regression=regression(checkpoint.config),
        # Nothing is known about its range, and bfloat16 has float32's.
        half="bfloat16",
        max_length=getattr(config, "max_position_embeddings", None),
    )


def read_config(checkpoint: Checkpoint) -> Any:
    """The config as transformers reads it, its defaults filled in.

    Raises:
        CheckpointError: it needs remote code, transformers does not know it, or a value is of
            another kind.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        kind = checkpoint.config.get("model_type")
        custom = checkpoint.config.get("auto_map")
        reason = (
            "it brings code of its own (auto_map), and bei-jobs never runs remote code"
            if custom
            else "transformers does not know it either"
        )
        raise CheckpointError(
            f"{checkpoint.name}: model_type {kind!r} is not a family of bei-jobs, and {reason}",
            hint=_alternative(str(kind)),
        ) from error
    except Exception as error:  # transformers checks values with errors of its own
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'} is not the config of a "
            f"{checkpoint.config.get('model_type')}: {' '.join(str(error).split())}",
            hint="Fetch the checkpoint again, or undo the edit of its config.json.",
        ) from error


def _alternative(kind: str) -> str:
    known = {
        "nvembed": "nvidia/llama-embed-nemotron-8b is NVIDIA's successor without remote code.",
        "jina_clip": "For text alone: jinaai/jina-embeddings-v2-base-en.",
    }
    return known.get(kind, "`bei-jobs models` lists checkpoints that work.")
