"""Families built like BERT, with norms after each branch, and ModernBERT, with norms before."""

from __future__ import annotations

import re
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
    with_head,
)
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.tensor_names import biased
from pipeline.encoder.checkpoint.config_values import Config, model_class, size
from pipeline.encoder.checkpoint.multi_modules import COLBERT_CLASS
from pipeline.errors import CheckpointError

# Its prediction head, which is none of the encoder's.
_DISTILBERT_UNUSED = (re.compile(r"^vocab_(transform|layer_norm|projector)\."),)
_JINA_MLPS = ("mlp.gated_layers.weight", "mlp.up_gated_layer.weight")

_OTHER_RERANKERS = (
    "use BAAI/bge-reranker-base, Alibaba-NLP/gte-multilingual-reranker-base or "
    "Alibaba-NLP/gte-reranker-modernbert-base"
)


def post_norm(config: Config, family: str, **settings: Any) -> EncoderConfig:
    """The settings that BERT and the families built like it share."""
    heads = size(config, "num_attention_heads")
    hidden = size(config, "hidden_size")
    defaults: dict[str, Any] = {
        "vocab_size": size(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": size(config, "intermediate_size"),
        "layers": size(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "norm": "layer",
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "norm_placement": "post",
        "embedding_norm": True,
        "final_norm": False,
        "gated": False,
        "token_types": size(config, "type_vocab_size", 2, minimum=0),
    }
    return EncoderConfig(family=family, **{**defaults, **settings})


def bert(config: Config, tensors: Tensors) -> Family | None:
    """BERT, RoBERTa and XLM-R; also JinaBERT, whose config.json says `bert`."""
    if any(name.endswith(_JINA_MLPS) for name in tensors):
        return jina(config, tensors)
    if any(".mixer." in name for name in tensors):
        raise _needs_code(model_class(config))
    check_supported(
        config,
        {
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        },
    )
    rows = size(config, "max_position_embeddings")
    roberta = config["model_type"] != "bert"
    padding = size(config, "pad_token_id", 1, minimum=0) if roberta else None
    encoder_config = post_norm(
        config,
        str(config["model_type"]),
        activation=activation(config.get("hidden_act", "gelu")),
        position_table=rows,
        position_padding=padding,
        max_length=_positions(rows, padding),
    )
    encoder_config = with_head(
        encoder_config, config, sequence="dense" if roberta else "pooler", tokens="tokens"
    )
    return Family(encoder_config, tensor_names.BERT, tensor_names.HEADS[encoder_config.head])


def _positions(rows: int, padding: int | None) -> int:
    """Tokens of the longest sequence: positions follow that of padding, if it has one.

    Raises:
        ValueError: there are none.
    """
    positions = rows if padding is None else rows - padding - 1
    if positions < 1:
        raise ValueError(
            f"positions follow that of padding, {padding} (pad_token_id), and the table ends at "
            f"{rows - 1} (max_position_embeddings)"
        )
    return positions


def _needs_code(name: str) -> CheckpointError:
    """The error for XLM-R with rotary positions, in the layout of Jina's own code."""
    if name == COLBERT_CLASS:
        return CheckpointError(
            "this checkpoint has the layout of jina-colbert-v2, an XLM-R with rotary positions "
            "that code of its own computes (auto_map), which bei-jobs never runs",
            hint="use colbert-ir/colbertv2.0, jinaai/jina-colbert-v1-en, "
            "answerdotai/answerai-colbert-small-v1 or lightonai/GTE-ModernColBERT-v1; for many "
            "languages, BAAI/bge-m3 with --vectors multi",
        )
    return CheckpointError(
        "this checkpoint has the layout of jina-embeddings-v3, whose adapters need code of "
        "its own, which bei-jobs never runs",
        hint=_OTHER_RERANKERS
        if name.endswith("ForSequenceClassification")
        else "use jinaai/jina-embeddings-v2-base-*, BAAI/bge-m3 or "
        "intfloat/multilingual-e5-large-instruct",
    )


def mpnet(config: Config, tensors: Tensors) -> Family | None:
    """MPNet: learned positions that start at 2, and one relative bias for every layer."""
    rows = size(config, "max_position_embeddings")
    encoder_config = post_norm(
        config,
        "mpnet",
        activation=activation(config.get("hidden_act", "gelu")),
        position_table=rows,
        position_padding=1,  # fixed in the architecture, whatever pad_token_id says
        relative_buckets=size(config, "relative_attention_num_buckets", 32),
        token_types=0,
        max_length=_positions(rows, 1),
    )
    encoder_config = with_head(encoder_config, config, sequence="dense", tokens="tokens")
    return Family(encoder_config, tensor_names.MPNET, tensor_names.HEADS[encoder_config.head])


def distilbert(config: Config, tensors: Tensors) -> Family | None:
    """DistilBERT: BERT without token types, under names of its own."""
    heads, hidden = size(config, "n_heads"), size(config, "dim")
    rows = size(config, "max_position_embeddings")
    encoder_config = post_norm(
        {
            "vocab_size": config["vocab_size"],
            "hidden_size": hidden,
            "intermediate_size": config["hidden_dim"],
            "num_hidden_layers": config["n_layers"],
            "num_attention_heads": heads,
        },
        "distilbert",
        activation=activation(config.get("activation", "gelu")),
        position_table=rows,
        token_types=0,
        max_length=rows,
    )
    return Family(encoder_config, tensor_names.DISTILBERT, {}, unused=_DISTILBERT_UNUSED)


def jina(config: Config, tensors: Tensors) -> Family | None:
    """jina-embeddings-v2: ALiBi and a gated MLP, in three layouts that tensor names distinguish."""
    _refuse_jina_head(model_class(config))
    check_supported(
        config,
        {"position_embedding_type": ("alibi",), "feed_forward_type": ("geglu", "reglu")},
    )
    code = any(name.endswith("mlp.up_gated_layer.weight") for name in tensors)
    normed = any(name.endswith("self.layer_norm_q.weight") for name in tensors)
    limits = [key for key in ("model_max_length", "max_position_embeddings") if config.get(key)]
    encoder_config = post_norm(
        config,
        "jina_bert",
        norm_placement="post_twice" if code else "post",
        activation=activation(config.get("feed_forward_type", "geglu")),
        gated=True,
        gate_first=not code,
        alibi=True,
        qk_norm="full_width" if normed else "none",
        max_length=size(config, limits[0]) if limits else None,
    )
    layout = tensor_names.JINA_CODE if code else tensor_names.JINA
    if normed and not code:
        layout = replace(layout, layer={**layout.layer, **tensor_names.JINA_QK_NORM})
    return Family(encoder_config, layout, {})


def _refuse_jina_head(name: str) -> None:
    if name.endswith("ForSequenceClassification"):
        raise CheckpointError(
            f"{name} (jina-reranker) ends in a head that is code of the checkpoint's own, which "
            "bei-jobs never runs",
            hint=_OTHER_RERANKERS,
        )
    if name not in ("JinaBertForMaskedLM", "JinaBertModel", ""):
        raise CheckpointError(
            f"config.json names the class {name}, whose head bei-jobs does not know",
            hint="use a JinaBertModel or JinaBertForMaskedLM",
        )


def gte(config: Config, tensors: Tensors) -> Family | None:
    """GTE v1.5 and its relatives; model_type is `gte`, or `new` in Alibaba's own code."""
    check_supported(
        config,
        {
            "layer_norm_type": ("layer_norm",),
            "position_embedding_type": ("rope",),
            "logn_attention_scale": (False,),
            "logn_attention_clip1": (False,),
            "pack_qkv": (True,),
        },
    )
    encoder_config = post_norm(
        config,
        "gte",
        activation=activation(config.get("hidden_act", "gelu")),
        gated=True,
        gate_first=False,
        token_types=size(config, "type_vocab_size", 1, minimum=0),
    )
    # The default of transformers' own class; that of Alibaba's code is 10,000.
    default = {"rope_theta": 160_000.0} if config["model_type"] == "gte" else {}
    rotary = rope({**default, **config}, encoder_config.head_dim)
    if rotary is None:
        return None
    encoder_config = replace(
        encoder_config,
        ropes=(rotary,) * encoder_config.layers,
        max_length=size(config, "max_position_embeddings"),
    )
    encoder_config = with_head(encoder_config, config, sequence="pooler", tokens="tokens")
    skip = frozenset({"types"}) if encoder_config.token_types == 0 else frozenset[str]()
    return Family(encoder_config, tensor_names.GTE, tensor_names.HEADS[encoder_config.head], skip)


def modernbert(config: Config, tensors: Tensors) -> Family | None:
    """ModernBERT: alternating windows, each kind of layer with its own rotary base."""
    layers = size(config, "num_hidden_layers")
    period = size(config, "global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if i % period else "full_attention" for i in range(layers)
    ]
    head_dim = size(config, "hidden_size") // size(config, "num_attention_heads")
    rotary = ropes(
        config,
        head_dim,
        kinds,
        full=config.get("global_rope_theta", 160_000.0),
        sliding=config.get("local_rope_theta", 10_000.0),
        scaled=("full_attention", "sliding_attention"),
    )
    if rotary is None:
        return None
    encoder_config = post_norm(
        config,
        "modernbert",
        norm_eps=float(config.get("norm_eps", 1e-5)),
        norm_placement="pre",
        final_norm=True,
        activation=activation(config.get("hidden_activation", "gelu")),
        gated=True,
        token_types=0,
        ropes=rotary,
        windows=windows(kinds, size(config, "local_attention", 128) // 2),
        head_activation=activation(config.get("classifier_activation", "gelu")),
        head_pooling=config.get("classifier_pooling", "cls"),
        max_length=size(config, "max_position_embeddings"),
    )
    encoder_config = with_head(
        encoder_config, config, sequence="prediction", tokens="prediction_tokens"
    )
    if encoder_config.head == "prediction":
        check_supported(config, {"classifier_pooling": ("cls", "mean")})
    layout = with_biases(
        tensor_names.MODERNBERT,
        {
            "norm_bias": ("embed_norm", "final_norm", "attn_norm", "mlp_norm"),
            "attention_bias": ("qkv", "attn_out"),
            "mlp_bias": ("gate_up", "down"),
        },
        config,
    )
    head = biased(
        tensor_names.HEADS[encoder_config.head],
        only=("head_norm",) * bool(config.get("norm_bias"))
        + ("head_dense",) * bool(config.get("classifier_bias")),
    )
    # The first layer reads the embeddings, which are normed already.
    return Family(encoder_config, layout, head, frozenset({"layers.0.attn_norm"}))
