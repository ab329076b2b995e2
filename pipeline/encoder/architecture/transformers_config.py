"""Architectures that transformers computes: their settings, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.encoder.architecture.config_keys import RESTORE_CONFIG, config_errors
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import head_kind, labels, multi_label, regression
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# A hint of several errors.
LIST_MODELS = "run `bei-jobs models` for checkpoints that work"
# Learned tables of positions that start after the padding id, as RoBERTa's do.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm",
        "roberta-prelayernorm", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
# The last parts of the names of tables of positions.
_POSITION_TABLES = (
    "position_embeddings.weight", "embed_positions.weight", "positions_embed.weight", "wpe.weight",
)  # fmt: skip
# Families whose values are the same with padding: outputs that were computed so are continued.
EXACT_WITH_PADDING = frozenset(
    {
        "albert", "bart", "biogpt", "bloom", "data2vec-text", "deberta", "deberta-v2",
        "distilbert", "electra", "ernie", "esm", "flaubert", "gemma", "gemma2", "gemma3_text",
        "gpt2", "gte", "ibert", "llama", "longformer", "luke", "megatron-bert", "mistral",
        "modernbert", "modernbert-decoder", "mpt", "mt5", "nomic_bert", "openai-gpt", "opt",
        "qwen2", "qwen3", "rembert", "roberta-prelayernorm", "roformer", "squeezebert", "t5",
        "umt5", "xlm", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip


def read_settings(checkpoint: Checkpoint) -> tuple[EncoderConfig, int | None]:
    """The settings that the engine needs of a model that transformers computes.

    Returns:
        The settings, and the most tokens that its positions hold; None if nothing bounds them.

    Raises:
        CheckpointError: it needs remote code, transformers does not know it, or a value is invalid.
    """
    config = read_config(checkpoint)
    if "lsh" in (getattr(config, "attn_layers", None) or ()) and config.hash_seed is None:
        raise CheckpointError(
            f"{checkpoint.name}: the attention of a {config.model_type} hashes at random, so that "
            "no two runs give a text the same value",
            hint=LIST_MODELS,
        )
    with config_errors(checkpoint):
        settings = _settings(checkpoint, config)
        return settings, _positions(config, settings.max_length)


def has_position_table(tensors: Iterable[str]) -> bool:
    """Whether there is a table of positions among tensors, so that no later one can be read."""
    return any(name.endswith(_POSITION_TABLES) for name in tensors)


def was_padded_wrongly(checkpoint: Checkpoint) -> bool:
    """Whether the values of a model depended on its neighbours' lengths when they were padded.

    Rotary positions of these kinds kept the frequencies of the longest text.
    """
    config = checkpoint.config
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kept = "dynamic" in str(scaling) or "longrope" in str(scaling)
    return kept or config.get("model_type") not in EXACT_WITH_PADDING


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
        token_types=_token_types(config),
        labels=() if head_kind(checkpoint.config) == "embedding" else labels(checkpoint.config),
        multi_label=multi_label(checkpoint.config),
        regression=regression(checkpoint.config),
        # The range of its activations is unknown, and bfloat16 has the range of float32.
        half="bfloat16",
        # As stated: `_positions` has what can be read. The identity of a job holds this one.
        max_length=_stated_positions(config),
    )


def _token_types(config: Any) -> int:
    """How many token types a model distinguishes; XLNet compares types, without a table of them."""
    if config.model_type == "xlnet":
        return 3
    return int(getattr(config, "type_vocab_size", 0) or 0)


def _positions(config: Any, stated: int | None) -> int | None:
    """The most tokens of a sequence that a model has positions for."""
    if stated is not None and stated < 1:  # XLNet says -1: nothing bounds them
        return None
    padding = getattr(config, "pad_token_id", None)
    if stated is None or padding is None or config.model_type not in _POSITIONS_AFTER_PADDING:
        return stated
    return max(1, stated - int(padding) - 1)


def _stated_positions(config: Any) -> int | None:
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else int(positions)


def read_config(checkpoint: Checkpoint) -> Any:
    """The config as transformers reads it, with defaults filled in.

    Raises:
        CheckpointError: it needs remote code, transformers does not know it, or a value is invalid.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        kind = checkpoint.config.get("model_type")
        custom = checkpoint.config.get("auto_map")
        reason = (
            "the checkpoint has code of its own (auto_map), but bei-jobs never runs remote code"
            if custom
            else "transformers does not know it either"
        )
        raise CheckpointError(
            f"{checkpoint.name}: bei-jobs does not know the model_type {shown(kind)}, and {reason}",
            hint=_alternative(str(kind)),
        ) from error
    except Exception as error:  # transformers validates values with its own kinds of errors
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'} is not the config of a "
            f"{one_line(checkpoint.config.get('model_type'))}: {one_line(error)}",
            hint=RESTORE_CONFIG,
        ) from error


def _alternative(kind: str) -> str:
    alternatives = {
        "nvembed": "use nvidia/llama-embed-nemotron-8b, NVIDIA's successor without remote code",
        "jina_clip": "use jinaai/jina-embeddings-v2-base-en if you embed text only",
    }
    return alternatives.get(kind, LIST_MODELS)
