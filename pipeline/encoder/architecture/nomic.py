"""NomicBERT: rotary positions in BERT's layers, with a gate, or with experts in some of them."""

from __future__ import annotations

from dataclasses import replace

from pipeline.encoder.architecture import tensor_names
from pipeline.encoder.architecture.bert import post_norm
from pipeline.encoder.architecture.config_keys import (
    Family,
    Tensors,
    activation,
    check_supported,
    rope,
    with_biases,
)
from pipeline.encoder.architecture.encoder_config import EncoderConfig, Experts
from pipeline.encoder.checkpoint.config_values import Config, model_class, size


def nomic(config: Config, tensors: Tensors) -> Family | None:
    """NomicBERT, with its own config keys (n_embd, …) or those of transformers.

    nomic-embed-text-v2-moe has biases, no gate, and experts in every second layer.
    """
    _check_nomic(config)
    keys = {
        "hidden_size": config.get("n_embd", 768),
        "num_attention_heads": config.get("n_head", 12),
        "num_hidden_layers": config.get("n_layer", 12),
        "intermediate_size": config.get("n_inner") or 4 * size(config, "n_embd", 768),
        "vocab_size": 30528,
        "layer_norm_eps": config.get("layer_norm_epsilon", 1e-12),
        "hidden_act": config.get("activation_function", "swiglu"),
        "rope_theta": config.get("rotary_emb_base", 1000.0),
    }
    settings = {**keys, **config}
    experts = _nomic_experts(config)
    encoder_config = post_norm(
        settings,
        "nomic_bert" if experts is None else "nomic_bert_moe",
        activation=activation(settings["hidden_act"]),
        gated=_nomic_gated(config),
        experts=experts,
    )
    rotary = rope(settings, encoder_config.head_dim)
    if rotary is None or model_class(config).endswith("Classification"):
        return None
    encoder_config = replace(encoder_config, ropes=(rotary,) * encoder_config.layers)
    flags = {"qkv_proj_bias": ("qkv", "attn_out"), "mlp_fc1_bias": ("up",)}
    layout = tensor_names.NOMIC if encoder_config.gated else tensor_names.NOMIC_UNGATED
    layout = with_biases(layout, {**flags, "mlp_fc2_bias": ("down",)}, config)
    if experts is None:
        return Family(encoder_config, layout, {})
    layout = replace(layout, layer={**layout.layer, **tensor_names.NOMIC_EXPERTS})
    return Family(encoder_config, layout, {}, _other_mlps(encoder_config))


def _nomic_gated(config: Config) -> bool:
    # Keys of transformers name the activation alone, and all of its models have a gate.
    return config.get("activation_function", "swiglu") in ("glu", "swiglu", "geglu")


def _check_nomic(config: Config) -> None:
    biases = (False,) if _nomic_gated(config) else (False, True)
    check_supported(
        config,
        {
            "prenorm": (False,),
            "parallel_block": (False,),
            "causal": (False,),
            "use_rms_norm": (False, None),
            "rotary_emb_fraction": (1.0,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (None,),
            "rotary_scaling_factor": (None,),
            "qkv_proj_bias": biases,
            "mlp_fc1_bias": biases,
            "mlp_fc2_bias": biases,
        },
    )


def _nomic_experts(config: Config) -> Experts | None:
    every = config.get("moe_every_n_layers", -1)
    if every in (0, -1):
        return None
    check_supported(
        config,
        {
            "expert_choice_router": (False,),
            "ffn_div": (1,),
            "moe_normalize_expert_weights": (False,),
            "num_shared_experts": (0,),
        },
    )
    count, active = size(config, "num_experts"), size(config, "moe_top_k")
    if active > count:
        raise ValueError(f"moe_top_k is {active}, more than the {count} experts")
    if _nomic_gated(config):
        raise ValueError("its experts have a gate")
    return Experts(count, active, size(config, "moe_every_n_layers", minimum=2))


def _other_mlps(config: EncoderConfig) -> frozenset[str]:
    """The names that a layer does not have: those of an MLP or those of experts."""
    return frozenset(
        f"layers.{i}.{own}"
        for i in range(config.layers)
        for own in (("up", "down") if config.has_experts(i) else tensor_names.NOMIC_EXPERTS)
    )
