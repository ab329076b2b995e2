"""Families built like Llama: Llama, Mistral, Qwen2, Qwen3 and Gemma 3, causal or bidirectional."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.encoder.architecture import tensor_names
from pipeline.encoder.architecture.config_keys import (
    Family,
    Tensors,
    activation,
    check_supported,
    rope,
    ropes,
    windows,
    with_biases,
)
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.tensor_names import Names, biased
from pipeline.encoder.checkpoint.config_values import Config, model_class, size
from pipeline.encoder.checkpoint.safetensors_headers import UNUSED_IMAGES
from pipeline.errors import CheckpointError

# What transformers assumes where a text_config is silent, as those of Google's own models are.
GEMMA3_TEXT = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}


def _pre_norm(config: Config, family: str, **settings: Any) -> EncoderConfig:
    """The settings that Llama, Qwen and Gemma share."""
    heads = size(config, "num_attention_heads")
    hidden = size(config, "hidden_size")
    defaults: dict[str, Any] = {
        "vocab_size": size(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": size(config, "intermediate_size"),
        "layers": size(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": size(config, "num_key_value_heads", heads),
        "head_dim": size(config, "head_dim", hidden // heads),
        "norm": "rms",
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "norm_placement": "pre",
        "embedding_norm": False,
        "final_norm": True,
        "gated": True,
        "max_length": size(config, "max_position_embeddings"),
        "half": "bfloat16",
    }
    return EncoderConfig(family=family, **{**defaults, **settings})


def llama(config: Config, tensors: Tensors) -> Family | None:
    """Llama, Mistral, Qwen2 and Qwen3, causal or bidirectional."""
    kind = str(config["model_type"])
    if model_class(config).endswith("Classification"):
        return None
    qwen3 = kind == "qwen3"
    encoder_config = _pre_norm(
        config,
        "llama" if kind == "llama_bidirec" else kind,
        activation=activation(config.get("hidden_act", "silu")),
        causal=_causal(config),
        qk_norm="per_head" if qwen3 else "none",
    )
    rotary = rope(config, encoder_config.head_dim)
    if rotary is None:
        return None
    encoder_config = replace(
        encoder_config,
        ropes=(rotary,) * encoder_config.layers,
        windows=_mistral_windows(config) if kind == "mistral" else _qwen_windows(config),
    )
    if encoder_config.windows and not encoder_config.causal:
        return None
    flags = {"attention_bias": ("qkv", "attn_out"), "mlp_bias": ("gate_up", "down")}
    layout = with_biases(tensor_names.LLAMA, flags, config)
    if kind == "qwen2":
        layout = replace(layout, layer=biased(layout.layer, only=("qkv",)))
    if qwen3:
        layout = replace(layout, layer={**layout.layer, **tensor_names.LLAMA_QK_NORM})
    width = _projection(config, tensors)
    projection: Names = {"projection": "linear.weight"} if width else {}
    return Family(replace(encoder_config, projection=width), layout, projection)


def _projection(config: Config, tensors: Tensors) -> int:
    """Width of the linear layer over the hidden states, 0 where there is none.

    A bidirectional Qwen3 with num_labels is voyage-4-nano. Without that layer it would give other
    vectors, so the layer is required even if the tensor is missing.
    """
    voyage = config["model_type"] == "qwen3" and config.get("use_bidirectional_attention")
    if voyage and config.get("num_labels"):
        return size(config, "num_labels")
    return tensors["linear.weight"].shape[0] if "linear.weight" in tensors else 0


def _causal(config: Config) -> bool:
    """Whether a decoder attends backwards only.

    Raises:
        CheckpointError: custom code of the checkpoint decides it, and config.json does not say.
    """
    if config["model_type"] == "llama_bidirec" or config.get("use_bidirectional_attention"):
        return False
    if "is_causal" in config:
        return bool(config["is_causal"])
    if config.get("auto_map"):
        raise CheckpointError(
            f"config.json of this {config['model_type']} checkpoint names code of its own "
            "(auto_map) and lacks is_causal: whether tokens attend to later ones is decided in "
            "that code, which bei-jobs never runs",
            hint='add "is_causal": false to config.json for a bidirectional embedder such as '
            'gte-Qwen2 (its newer revisions have it), or "is_causal": true for a causal one',
        )
    return True


def _qwen_windows(config: Config) -> tuple[int | None, ...]:
    if not config.get("use_sliding_window") or not config.get("sliding_window"):
        return ()
    layers = size(config, "num_hidden_layers")
    first = size(config, "max_window_layers", 28, minimum=0)
    kinds = config.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(layers)
    ]
    return windows(kinds, size(config, "sliding_window") - 1)


def mistral(config: Config, tensors: Tensors) -> Family | None:
    """Mistral, with the defaults of transformers for what its config.json leaves out."""
    defaults = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}
    return llama({**defaults, "sliding_window": 4096, **config}, tensors)


def _mistral_windows(config: Config) -> tuple[int | None, ...]:
    """The same window in every layer; null is none."""
    if config.get("sliding_window") is None:
        return ()
    return (size(config, "sliding_window") - 1,) * size(config, "num_hidden_layers")


def gemma3(config: Config, tensors: Tensors) -> Family | None:
    """Gemma 3 text models, bidirectional (EmbeddingGemma) or causal; float16 overflows in them."""
    check_supported(config, {"attn_logit_softcapping": (None,)})
    layers = size(config, "num_hidden_layers")
    pattern = size(config, "sliding_window_pattern", size(config, "_sliding_window_pattern", 6))
    kinds = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)
    ]
    causal = not config.get("use_bidirectional_attention")
    window = size(config, "sliding_window")
    hidden = size(config, "hidden_size")
    head_dim = size(config, "head_dim", 256)
    rotary = ropes(
        config,
        head_dim,
        kinds,
        full=config.get("rope_theta", 1_000_000.0),
        sliding=config.get("rope_local_base_freq", 10_000.0),
        scaled=("full_attention",),
    )
    if rotary is None or model_class(config).endswith("Classification"):
        return None
    encoder_config = _pre_norm(
        config,
        "gemma3",
        head_dim=head_dim,
        norm="rms_plus_one",
        norm_placement="sandwich",
        activation=activation(config.get("hidden_activation", "gelu_pytorch_tanh")),
        causal=causal,
        ropes=rotary,
        # A causal window counts the token itself; a bidirectional one spans both sides.
        windows=windows(kinds, window - 1 if causal else window // 2),
        qk_norm="per_head",
        attention_scale=size(config, "query_pre_attn_scalar", 256) ** -0.5,
        embedding_scale=hidden**0.5,
        float16_overflows=True,
    )
    flags = {"attention_bias": ("qkv", "attn_out")}
    return Family(encoder_config, with_biases(tensor_names.GEMMA, flags, config), {})


def gemma3_with_images(config: Config, tensors: Tensors) -> Family | None:
    """The text part of a Gemma 3 for text and images: its settings are nested in text_config."""
    text = config["text_config"]
    if text.get("use_bidirectional_attention"):
        raise CheckpointError(
            "config.json sets use_bidirectional_attention in the text_config of a gemma3, which "
            "transformers ignores there: it would attend backwards only, in half the window",
            hint="save the text model by itself (model_type gemma3_text), as EmbeddingGemma is",
        )
    named = {"model_type": "gemma3", "architectures": config.get("architectures")}
    family = gemma3({**GEMMA3_TEXT, **text, **named}, tensors)
    if family is None:
        return None
    layout = replace(family.layout, prefixes=tensor_names.GEMMA_WITH_IMAGES)
    return replace(family, layout=layout, unused=(UNUSED_IMAGES,))
