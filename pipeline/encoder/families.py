"""Published families as data: how to recognise one, its settings, its tensors.

A family reads `config.json` (old and new keys) and the names of the tensors, never the weights.
To add one: a layout in `layouts.py` if its names are new, a function here, a golden in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.encoder import layouts
from pipeline.encoder.checkpoint import Checkpoint
from pipeline.encoder.config import Activation, EncoderConfig, Head, Rope
from pipeline.encoder.layouts import Layout, Names, biased
from pipeline.encoder.tensors import (
    UNUSED,
    UNUSED_POOLER,
    UNUSED_PREDICTION,
    Matched,
    TensorInfo,
    match,
    read_tensors,
)
from pipeline.errors import CheckpointError

Config = Mapping[str, Any]
Tensors = Mapping[str, TensorInfo]

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "geglu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "relu": "relu",
    "reglu": "relu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One recognised checkpoint: its settings and where its tensors are."""

    encoder: EncoderConfig
    layout: Layout
    head_names: Names
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A recognised checkpoint whose tensors all have a place."""

    encoder: EncoderConfig
    matched: Matched


def recognise(checkpoint: Checkpoint) -> EncoderConfig | None:
    """Settings of a checkpoint of a known family; None where the family is not one of ours.

    Raises:
        CheckpointError: the family is ours but a setting is not supported, or a tensor is missing
            or left over.
    """
    loaded = load_family(checkpoint)
    return loaded.encoder if loaded else None


def load_family(checkpoint: Checkpoint) -> Loaded | None:
    """The settings and the tensors of a checkpoint; raises as `recognise` does."""
    build = FAMILIES.get(str(checkpoint.config.get("model_type", "")))
    if build is None:
        return None
    tensors = read_tensors(checkpoint.folder)
    family = build(checkpoint.config, tensors)
    if family is None:
        return None
    return Loaded(family.encoder, _match(family, tensors, str(checkpoint.folder)))


def _match(family: Family, tensors: Tensors, where: str) -> Matched:
    anchor = family.layout.once["tokens"]
    prefix = next((p for p in family.layout.prefixes if f"{p}{anchor}" in tensors), "")
    names = layouts.expand(
        family.layout, family.encoder.layers, prefix, family.head_names, family.skip
    )
    unused = [pattern for pattern, _ in UNUSED]
    if "head_dense.weight" not in names or family.encoder.head != "pooler":
        unused.append(UNUSED_POOLER)
    if family.encoder.family == "modernbert" and family.encoder.head == "none":
        unused.append(UNUSED_PREDICTION)
    matched = match(names, tensors, unused, where)
    _check_shapes(family.encoder, matched, where)
    return matched


def _check_shapes(encoder: EncoderConfig, matched: Matched, where: str) -> None:
    """Sizes of the config against the tensors', where a mismatch would still compute."""
    qkv = (encoder.heads + 2 * encoder.kv_heads) * encoder.head_dim
    inner = encoder.intermediate_size
    rows = {
        "tokens.weight": encoder.vocab_size,
        "positions.weight": encoder.position_table,
        "types.weight": encoder.token_types,
        "layers.0.qkv.weight": qkv,
        "layers.0.up.weight": inner,
        "layers.0.gate_up.weight": 2 * inner,
        "classifier.weight": len(encoder.labels),
    }
    for name, expected in rows.items():
        sources = matched.sources.get(name, ())
        found = sum(source.shape[0] for source in sources)
        if sources and found != expected:
            raise CheckpointError(
                f"{where}: {' + '.join(s.name for s in sources)} has {found} rows where "
                f"config.json says {expected}",
                hint="config.json does not belong to these weights.",
            )


def _refuse(config: Config, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise where a setting that changes the output has a value that nothing here computes."""
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise CheckpointError(
                f"config.json sets {key} = {config[key]!r}; supported for model_type "
                f"{config['model_type']!r}: {', '.join(map(repr, values))}",
                hint="No published checkpoint of this family needs it; is the config edited?",
            )


def _activation(name: object) -> Activation:
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f"config.json names the activation {name!r}; known: {', '.join(sorted(_ACTIVATIONS))}"
        )
    return _ACTIVATIONS[str(name)]


def labels(config: Config) -> tuple[str, ...]:
    """Names of the classes in the order of the logits."""
    named = config.get("id2label") or {}
    if named:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    return tuple(f"LABEL_{i}" for i in range(int(config.get("num_labels", 2))))


def architecture(config: Config) -> str:
    """The class a checkpoint was saved from, "" where it does not say."""
    return str((config.get("architectures") or [""])[0])


def _headed(
    encoder: EncoderConfig, config: Config, *, sequence: Head, tokens: Head
) -> EncoderConfig:
    """Add the head that the architecture names, and its labels."""
    name = architecture(config)
    head: Head = "none"
    if name.endswith("ForSequenceClassification"):
        head = sequence
    elif name.endswith("ForTokenClassification"):
        head = tokens
    if head == "none":
        return encoder
    multi_label = config.get("problem_type") == "multi_label_classification"
    return replace(encoder, head=head, labels=labels(config), multi_label=multi_label)


def _post_norm(config: Config, family: str, **settings: Any) -> EncoderConfig:
    """What BERT and everything built like it shares."""
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    defaults: dict[str, Any] = {
        "vocab_size": int(config["vocab_size"]),
        "hidden_size": hidden,
        "intermediate_size": int(config["intermediate_size"]),
        "layers": int(config["num_hidden_layers"]),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "norm": "layer",
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "norm_placement": "post",
        "embedding_norm": True,
        "final_norm": False,
        "gated": False,
        "token_types": int(config.get("type_vocab_size", 2)),
    }
    return EncoderConfig(family=family, **{**defaults, **settings})


def bert(config: Config, tensors: Tensors) -> Family | None:
    """BERT, RoBERTa and XLM-R; JinaBert too, which publishes itself as `bert`."""
    if any(".mlp." in name for name in tensors):
        return jina(config, tensors)
    _refuse(
        config,
        {
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        },
    )
    rows = int(config["max_position_embeddings"])
    roberta = config["model_type"] != "bert"
    padding = int(config.get("pad_token_id", 1)) if roberta else None
    encoder = _post_norm(
        config,
        str(config["model_type"]),
        activation=_activation(config.get("hidden_act", "gelu")),
        position_table=rows,
        position_padding=padding,
        max_length=rows if padding is None else rows - padding - 1,
    )
    encoder = _headed(encoder, config, sequence="dense" if roberta else "pooler", tokens="tokens")
    return Family(encoder, layouts.BERT, layouts.HEADS[encoder.head])


def mpnet(config: Config, tensors: Tensors) -> Family | None:
    """MPNet: learned positions that start at 2, and one relative bias for every layer."""
    rows = int(config["max_position_embeddings"])
    encoder = _post_norm(
        config,
        "mpnet",
        activation=_activation(config.get("hidden_act", "gelu")),
        position_table=rows,
        position_padding=1,  # fixed in the architecture, whatever pad_token_id says
        relative_buckets=int(config.get("relative_attention_num_buckets", 32)),
        token_types=0,
        max_length=rows - 2,
    )
    encoder = _headed(encoder, config, sequence="dense", tokens="tokens")
    return Family(encoder, layouts.MPNET, layouts.HEADS[encoder.head])


def jina(config: Config, tensors: Tensors) -> Family | None:
    """jina-embeddings-v2: ALiBi and a gated MLP, in three layouts told apart by tensor names."""
    _refuse(
        config,
        {
            "position_embedding_type": ("alibi",),
            "feed_forward_type": ("geglu", "reglu"),
            "architectures": (["JinaBertForMaskedLM"], ["JinaBertModel"], None),
        },
    )
    code = any(name.endswith("mlp.up_gated_layer.weight") for name in tensors)
    normed = any(name.endswith("self.layer_norm_q.weight") for name in tensors)
    encoder = _post_norm(
        config,
        "jina_bert",
        norm_placement="post_twice" if code else "post",
        activation=_activation(config.get("feed_forward_type", "geglu")),
        gated=True,
        gate_first=not code,
        alibi=True,
        qk_norm="full_width" if normed else "none",
        max_length=config.get("model_max_length") or config.get("max_position_embeddings"),
    )
    layout = layouts.JINA_CODE if code else layouts.JINA
    if normed and not code:
        layout = replace(layout, layer={**layout.layer, **layouts.JINA_QK_NORM})
    return Family(encoder, layout, {})


def nomic(config: Config, tensors: Tensors) -> Family | None:
    """NomicBert, in its own config keys (n_embd, …) or in those it was converted to."""
    _refuse(
        config,
        {
            "prenorm": (False,),
            "parallel_block": (False,),
            "use_rms_norm": (False, None),
            "rotary_emb_fraction": (1.0,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (None,),
            "rotary_scaling_factor": (None,),
            "qkv_proj_bias": (False,),
            "mlp_fc1_bias": (False,),
            "mlp_fc2_bias": (False,),
            "moe_every_n_layers": (0, -1),
        },
    )
    keys = {
        "hidden_size": config.get("n_embd", 768),
        "num_attention_heads": config.get("n_head", 12),
        "num_hidden_layers": config.get("n_layer", 12),
        "intermediate_size": config.get("n_inner") or 4 * int(config.get("n_embd", 768)),
        "vocab_size": 30528,
        "layer_norm_eps": config.get("layer_norm_epsilon", 1e-12),
        "hidden_act": config.get("activation_function", "swiglu"),
        "rope_theta": config.get("rotary_emb_base", 1000.0),
    }
    settings = {**keys, **config}
    encoder = _post_norm(
        settings,
        "nomic_bert",
        activation=_activation(settings["hidden_act"]),
        gated=True,
    )
    rope = _rope(settings, encoder.head_dim)
    if rope is None or architecture(config).endswith("Classification"):
        return None
    return Family(replace(encoder, ropes=(rope,) * encoder.layers), layouts.NOMIC, {})


def gte(config: Config, tensors: Tensors) -> Family | None:
    """GTE v1.5 and its relatives: `gte`, or `new` as Alibaba's own code calls it."""
    _refuse(
        config,
        {
            "layer_norm_type": ("layer_norm",),
            "position_embedding_type": ("rope",),
            "logn_attention_scale": (False,),
            "logn_attention_clip1": (False,),
            "pack_qkv": (True,),
        },
    )
    encoder = _post_norm(
        config,
        "gte",
        activation=_activation(config.get("hidden_act", "gelu")),
        gated=True,
        gate_first=False,
        token_types=int(config.get("type_vocab_size", 1)),
    )
    rope = _rope(config, encoder.head_dim)
    if rope is None:
        return None
    encoder = replace(
        encoder,
        ropes=(rope,) * encoder.layers,
        max_length=int(config["max_position_embeddings"]),
    )
    encoder = _headed(encoder, config, sequence="pooler", tokens="tokens")
    skip = frozenset({"types"}) if encoder.token_types == 0 else frozenset[str]()
    return Family(encoder, layouts.GTE, layouts.HEADS[encoder.head], skip)


def modernbert(config: Config, tensors: Tensors) -> Family | None:
    """ModernBERT: alternating windows, each kind of layer with its own rotary base."""
    layers = int(config["num_hidden_layers"])
    every = int(config.get("global_attn_every_n_layers", 3))
    kinds = config.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(layers)
    ]
    head_dim = int(config["hidden_size"]) // int(config["num_attention_heads"])
    ropes = _ropes(
        config,
        head_dim,
        kinds,
        full=config.get("global_rope_theta", 160_000.0),
        sliding=config.get("local_rope_theta", 10_000.0),
    )
    if ropes is None:
        return None
    encoder = _post_norm(
        config,
        "modernbert",
        norm_eps=float(config.get("norm_eps", 1e-5)),
        norm_placement="pre",
        final_norm=True,
        activation=_activation(config.get("hidden_activation", "gelu")),
        gated=True,
        token_types=0,
        ropes=ropes,
        windows=_windows(kinds, int(config.get("local_attention", 128)) // 2),
        head_activation=_activation(config.get("classifier_activation", "gelu")),
        head_pooling=config.get("classifier_pooling", "cls"),
        max_length=int(config["max_position_embeddings"]),
    )
    encoder = _headed(encoder, config, sequence="prediction", tokens="prediction_tokens")
    layout = _with_biases(
        layouts.MODERNBERT,
        {
            "norm_bias": ("embed_norm", "final_norm", "attn_norm", "mlp_norm"),
            "attention_bias": ("qkv", "attn_out"),
            "mlp_bias": ("gate_up", "down"),
        },
        config,
    )
    head = biased(
        layouts.HEADS[encoder.head],
        only=("head_norm",) * bool(config.get("norm_bias"))
        + ("head_dense",) * bool(config.get("classifier_bias")),
    )
    # The first layer reads the embeddings, which are normed already.
    return Family(encoder, layout, head, frozenset({"layers.0.attn_norm"}))


def _with_biases(layout: Layout, flags: Mapping[str, tuple[str, ...]], config: Config) -> Layout:
    """Add the biases that the config's flags ask for."""
    only = tuple(ours for flag, names in flags.items() if config.get(flag) for ours in names)
    return replace(
        layout, once=biased(layout.once, only=only), layer=biased(layout.layer, only=only)
    )


def _pre_norm(config: Config, family: str, **settings: Any) -> EncoderConfig:
    """What Llama, Qwen and Gemma share."""
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    defaults: dict[str, Any] = {
        "vocab_size": int(config["vocab_size"]),
        "hidden_size": hidden,
        "intermediate_size": int(config["intermediate_size"]),
        "layers": int(config["num_hidden_layers"]),
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": int(config.get("head_dim") or hidden // heads),
        "norm": "rms",
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "norm_placement": "pre",
        "embedding_norm": False,
        "final_norm": True,
        "gated": True,
        "max_length": int(config["max_position_embeddings"]),
        "half": "bfloat16",
    }
    return EncoderConfig(family=family, **{**defaults, **settings})


def llama(config: Config, tensors: Tensors) -> Family | None:
    """Llama, Qwen2 and Qwen3, causal or bidirectional."""
    kind = str(config["model_type"])
    if architecture(config).endswith("Classification"):
        return None
    qwen3 = kind == "qwen3"
    encoder = _pre_norm(
        config,
        "llama" if kind == "llama_bidirec" else kind,
        activation=_activation(config.get("hidden_act", "silu")),
        causal=_causal(config),
        qk_norm="per_head" if qwen3 else "none",
    )
    rope = _rope(config, encoder.head_dim)
    if rope is None:
        return None
    encoder = replace(encoder, ropes=(rope,) * encoder.layers, windows=_qwen_windows(config))
    if encoder.windows and not encoder.causal:
        return None
    flags = {"attention_bias": ("qkv", "attn_out"), "mlp_bias": ("gate_up", "down")}
    layout = _with_biases(layouts.LLAMA, flags, config)
    if kind == "qwen2":
        layout = replace(layout, layer=biased(layout.layer, only=("qkv",)))
    if qwen3:
        layout = replace(layout, layer={**layout.layer, **layouts.LLAMA_QK_NORM})
    projection: Names = {}
    if "linear.weight" in tensors:  # voyage-4-nano
        encoder = replace(encoder, projection=tensors["linear.weight"].shape[0])
        projection = {"projection": "linear.weight"}
    return Family(encoder, layout, projection)


def _causal(config: Config) -> bool:
    """Whether a decoder attends backwards only, or how to find out.

    Raises:
        CheckpointError: the published class is custom code that decides it, and the config does
            not say how.
    """
    if config["model_type"] == "llama_bidirec" or config.get("use_bidirectional_attention"):
        return False
    if "is_causal" in config:
        return bool(config["is_causal"])
    if config.get("auto_map"):
        raise CheckpointError(
            f"config.json of this {config['model_type']} checkpoint names code of its own "
            "(auto_map) and lacks is_causal: whether its tokens see what follows is decided "
            "there, and bei-jobs does not run it",
            hint='Add "is_causal": false to config.json for a bidirectional embedder such as '
            'gte-Qwen2 (its newer revisions have it), "is_causal": true for a causal one.',
        )
    return True


def _qwen_windows(config: Config) -> tuple[int | None, ...]:
    if not config.get("use_sliding_window") or not config.get("sliding_window"):
        return ()
    layers = int(config["num_hidden_layers"])
    first = int(config.get("max_window_layers", 28))
    kinds = config.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(layers)
    ]
    return _windows(kinds, int(config["sliding_window"]) - 1)


def gemma3(config: Config, tensors: Tensors) -> Family | None:
    """Gemma 3 text, bidirectional (EmbeddingGemma) or causal; float16 overflows in it."""
    _refuse(config, {"attn_logit_softcapping": (None,)})
    layers = int(config["num_hidden_layers"])
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern", 6))
    kinds = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)
    ]
    causal = not config.get("use_bidirectional_attention")
    window = int(config["sliding_window"])
    hidden = int(config["hidden_size"])
    head_dim = int(config.get("head_dim", 256))
    ropes = _ropes(
        config,
        head_dim,
        kinds,
        full=config.get("rope_theta", 1_000_000.0),
        sliding=config.get("rope_local_base_freq", 10_000.0),
    )
    if ropes is None or architecture(config).endswith("Classification"):
        return None
    encoder = _pre_norm(
        config,
        "gemma3",
        head_dim=head_dim,
        norm="rms_plus_one",
        norm_placement="sandwich",
        activation=_activation(config.get("hidden_activation", "gelu_pytorch_tanh")),
        causal=causal,
        ropes=ropes,
        # A causal window counts the token itself; a bidirectional one spans both sides.
        windows=_windows(kinds, window - 1 if causal else window // 2),
        qk_norm="per_head",
        attention_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        embedding_scale=hidden**0.5,
        float16_overflows=True,
    )
    flags = {"attention_bias": ("qkv", "attn_out")}
    return Family(encoder, _with_biases(layouts.GEMMA, flags, config), {})


def _windows(kinds: list[str], distance: int) -> tuple[int | None, ...]:
    return tuple(distance if kind == "sliding_attention" else None for kind in kinds)


def _ropes(
    config: Config, dim: int, kinds: list[str], *, full: float, sliding: float
) -> tuple[Rope, ...] | None:
    """Rotary settings of models whose windowed layers have a base of their own."""
    parameters = config.get("rope_parameters") or {}
    by_kind: dict[str, Rope | None] = {}
    for kind, theta in (("full_attention", full), ("sliding_attention", sliding)):
        settings = {"rope_theta": theta, "rope_parameters": parameters.get(kind)}
        scaled = kind == "full_attention"
        settings["rope_scaling"] = config.get("rope_scaling") if scaled else None
        by_kind[kind] = _rope(settings, dim)
    ropes = tuple(rope for kind in kinds if (rope := by_kind[kind]) is not None)
    return ropes if len(ropes) == len(kinds) else None


def _rope(config: Config, dim: int) -> Rope | None:
    """Rotary settings from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old).

    Alibaba's `ntk` multiplies the base by f and divides the frequencies by f^(2/dim), which is
    linear interpolation of another base. None: a kind that nothing here computes.
    """
    scaling = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    if kind == "default":
        return Rope(theta, dim)
    factor = float(scaling["factor"])
    if kind == "linear":
        return Rope(theta, dim, factor)
    if kind == "ntk":
        return Rope(theta * factor, dim, factor ** (2 / dim))
    if kind == "llama3":
        return Rope(
            theta,
            dim,
            factor,
            float(scaling["low_freq_factor"]),
            float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        )
    return None


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
