"""The tensor names of each published layout, as data.

Left: bei-jobs' own names, which `model/encoder.py` and `model/heads.py` read. Right: the published
name or names without the family's prefix; `{i}` is the layer, `.*` stands for both `.weight` and
`.bias`. Tensors of several names are concatenated along their first axis, so that separate
projections become one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Names = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensor names of one family."""

    prefixes: tuple[str, ...]  # a checkpoint puts one of these before its encoder's names
    once: Names  # tensors outside the layers
    layer: Names  # tensors of every layer


BERT_EMBEDDINGS: Names = {
    "tokens": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "embed_norm": "embeddings.LayerNorm.*",
}
BERT_ATTENTION: Names = {
    "qkv": tuple(f"encoder.layer.{{i}}.attention.self.{x}.*" for x in ("query", "key", "value")),
    "attn_out": "encoder.layer.{i}.attention.output.dense.*",
    "attn_out_norm": "encoder.layer.{i}.attention.output.LayerNorm.*",
}
BERT = Layout(
    prefixes=("", "bert.", "roberta.", "xlm_roberta."),
    once=BERT_EMBEDDINGS,
    layer={
        **BERT_ATTENTION,
        "up": "encoder.layer.{i}.intermediate.dense.*",
        "down": "encoder.layer.{i}.output.dense.*",
        "mlp_out_norm": "encoder.layer.{i}.output.LayerNorm.*",
    },
)
MPNET = Layout(
    prefixes=("", "mpnet."),
    once={
        **{own: name for own, name in BERT_EMBEDDINGS.items() if own != "types"},
        "relative_bias": "encoder.relative_attention_bias.weight",
    },
    layer={
        **BERT.layer,
        "qkv": tuple(f"encoder.layer.{{i}}.attention.attn.{x}.*" for x in "qkv"),
        "attn_out": "encoder.layer.{i}.attention.attn.o.*",
        "attn_out_norm": "encoder.layer.{i}.attention.LayerNorm.*",
    },
)

DISTILBERT = Layout(
    prefixes=("", "distilbert."),
    once={own: name for own, name in BERT_EMBEDDINGS.items() if own != "types"},
    layer={
        "qkv": tuple(f"transformer.layer.{{i}}.attention.{x}_lin.*" for x in "qkv"),
        "attn_out": "transformer.layer.{i}.attention.out_lin.*",
        "attn_out_norm": "transformer.layer.{i}.sa_layer_norm.*",
        "up": "transformer.layer.{i}.ffn.lin1.*",
        "down": "transformer.layer.{i}.ffn.lin2.*",
        "mlp_out_norm": "transformer.layer.{i}.output_layer_norm.*",
    },
)

JINA_EMBEDDINGS: Names = {own: name for own, name in BERT_EMBEDDINGS.items() if own != "positions"}
JINA_QK_NORM: Names = {
    "q_norm": "encoder.layer.{i}.attention.self.layer_norm_q.*",
    "k_norm": "encoder.layer.{i}.attention.self.layer_norm_k.*",
}
# jina-embeddings-v2-base-en and -de; with JINA_QK_NORM, -es.
JINA = Layout(
    prefixes=("", "bert."),
    once=JINA_EMBEDDINGS,
    layer={
        **BERT_ATTENTION,
        "gate_up": "encoder.layer.{i}.mlp.gated_layers.weight",
        "down": "encoder.layer.{i}.mlp.wo.*",
        "mlp_out_norm": "encoder.layer.{i}.mlp.layernorm.*",
    },
)
# jina-embeddings-v2-base-code: the gate is the second half, and two norms have names of the layer.
JINA_CODE = Layout(
    prefixes=("", "bert."),
    once=JINA_EMBEDDINGS,
    layer={
        **BERT_ATTENTION,
        **JINA_QK_NORM,
        "attn_residual_norm": "encoder.layer.{i}.layer_norm_1.*",
        "gate_up": "encoder.layer.{i}.mlp.up_gated_layer.weight",
        "down": "encoder.layer.{i}.mlp.down_layer.*",
        "mlp_out_norm": "encoder.layer.{i}.layer_norm_2.*",
    },
)
NOMIC = Layout(
    prefixes=("", "bert."),
    once={
        "tokens": "embeddings.word_embeddings.weight",
        "types": "embeddings.token_type_embeddings.weight",
        "embed_norm": "emb_ln.*",
    },
    layer={
        "qkv": "encoder.layers.{i}.attn.Wqkv.weight",
        "attn_out": "encoder.layers.{i}.attn.out_proj.weight",
        "attn_out_norm": "encoder.layers.{i}.norm1.*",
        "gate_up": (
            "encoder.layers.{i}.mlp.fc12.weight",  # gate
            "encoder.layers.{i}.mlp.fc11.weight",  # up
        ),
        "down": "encoder.layers.{i}.mlp.fc2.weight",
        "mlp_out_norm": "encoder.layers.{i}.norm2.*",
    },
)
# The layers without a gate, and nomic-embed-text-v2-moe's with experts in place of the MLP.
NOMIC_UNGATED = Layout(
    prefixes=NOMIC.prefixes,
    once=NOMIC.once,
    layer={
        **{own: name for own, name in NOMIC.layer.items() if own not in ("gate_up", "down")},
        "up": "encoder.layers.{i}.mlp.fc1.weight",
        "down": "encoder.layers.{i}.mlp.fc2.weight",
    },
)
NOMIC_EXPERTS: Names = {
    "router": "encoder.layers.{i}.mlp.router.layer.weight",
    "expert_up": "encoder.layers.{i}.mlp.experts.mlp.w1",
    "expert_down": "encoder.layers.{i}.mlp.experts.mlp.w2",
    "expert_bias": "encoder.layers.{i}.mlp.experts.bias",
}
GTE = Layout(
    prefixes=("", "new.", "gte."),
    once={
        "tokens": "embeddings.word_embeddings.weight",
        "types": "embeddings.token_type_embeddings.weight",
        "embed_norm": "embeddings.LayerNorm.*",
    },
    layer={
        "qkv": "encoder.layer.{i}.attention.qkv_proj.*",
        "attn_out": "encoder.layer.{i}.attention.o_proj.*",
        "attn_out_norm": "encoder.layer.{i}.attn_ln.*",
        "gate_up": "encoder.layer.{i}.mlp.up_gate_proj.weight",
        "down": "encoder.layer.{i}.mlp.down_proj.*",
        "mlp_out_norm": "encoder.layer.{i}.mlp_ln.*",
    },
)
MODERNBERT = Layout(
    prefixes=("", "model."),
    once={
        "tokens": "embeddings.tok_embeddings.weight",
        "embed_norm": "embeddings.norm.weight",
        "final_norm": "final_norm.weight",
    },
    layer={
        "attn_norm": "layers.{i}.attn_norm.weight",
        "qkv": "layers.{i}.attn.Wqkv.weight",
        "attn_out": "layers.{i}.attn.Wo.weight",
        "mlp_norm": "layers.{i}.mlp_norm.weight",
        "gate_up": "layers.{i}.mlp.Wi.weight",
        "down": "layers.{i}.mlp.Wo.weight",
    },
)
# Shared by Llama, Qwen2 and Qwen3.
LLAMA = Layout(
    prefixes=("", "model."),
    once={"tokens": "embed_tokens.weight", "final_norm": "norm.weight"},
    layer={
        "attn_norm": "layers.{i}.input_layernorm.weight",
        "qkv": tuple(f"layers.{{i}}.self_attn.{x}_proj.weight" for x in "qkv"),
        "attn_out": "layers.{i}.self_attn.o_proj.weight",
        "mlp_norm": "layers.{i}.post_attention_layernorm.weight",
        "gate_up": ("layers.{i}.mlp.gate_proj.weight", "layers.{i}.mlp.up_proj.weight"),
        "down": "layers.{i}.mlp.down_proj.weight",
    },
)
LLAMA_QK_NORM: Names = {
    "q_norm": "layers.{i}.self_attn.q_norm.weight",
    "k_norm": "layers.{i}.self_attn.k_norm.weight",
}
GEMMA = Layout(
    prefixes=("", "model."),
    once=LLAMA.once,
    layer={
        **LLAMA.layer,
        **LLAMA_QK_NORM,
        "attn_out_norm": "layers.{i}.post_attention_layernorm.weight",
        "mlp_norm": "layers.{i}.pre_feedforward_layernorm.weight",
        "mlp_out_norm": "layers.{i}.post_feedforward_layernorm.weight",
    },
)
# Prefixes of the text part beside a vision tower: transformers' own class, then older exports.
GEMMA_WITH_IMAGES = (
    "language_model.",
    "model.language_model.",
    "language_model.model.",
    *GEMMA.prefixes,
)

# Kind of head → its tensors. The pooler of BERT and GTE has the encoder's prefix ("{p}"); the other
# tensors of heads have none.
HEADS: dict[str, Names] = {
    "none": {},
    "pooler": {"head_dense": "{p}pooler.dense.*", "classifier": "classifier.*"},
    "dense": {"head_dense": "classifier.dense.*", "classifier": "classifier.out_proj.*"},
    "tokens": {"classifier": "classifier.*"},
    "prediction": {
        "head_dense": "head.dense.weight",
        "head_norm": "head.norm.weight",
        "classifier": "classifier.*",
    },
    # On the last token of a decoder.
    "score": {"classifier": "score.weight"},
    "lm_head": {"lm_head": "lm_head.weight"},
}
HEADS["prediction_tokens"] = HEADS["prediction"]


def biased(names: Names, *, only: tuple[str, ...]) -> Names:
    """The same names, with a bias beside the weight of those in `only`."""
    return {own: _both(published) if own in only else published for own, published in names.items()}


def _both(published: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(published, tuple):
        return tuple(name.replace(".weight", ".*") for name in published)
    return published.replace(".weight", ".*")


def expand(
    layout: Layout, layers: int, prefix: str, extra: Names, skip: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    """Every tensor of a checkpoint: own name in full → published names in full.

    Own names: `tokens.weight`, `layers.3.qkv.weight`, `layers.3.qkv.bias`, `classifier.weight`.

    Args:
        layout: the family's names.
        layers: number of layers.
        prefix: of the encoder's names in this checkpoint.
        extra: the head's names, written in full or with `{p}` for the prefix.
        skip: own names (without suffix) that this checkpoint does not have.
    """
    names: dict[str, tuple[str, ...]] = {}
    for own, published in layout.once.items():
        _add(names, own, _prefixed(published, prefix))
    for i in range(layers):
        for own, published in layout.layer.items():
            full = tuple(name.replace("{i}", str(i)) for name in _prefixed(published, prefix))
            _add(names, f"layers.{i}.{own}", full)
    for own, published in extra.items():
        full = (published,) if isinstance(published, str) else published
        _add(names, own, tuple(name.replace("{p}", prefix) for name in full))
    return {own: full for own, full in names.items() if own.rpartition(".")[0] not in skip}


def _prefixed(published: str | tuple[str, ...], prefix: str) -> tuple[str, ...]:
    full = (published,) if isinstance(published, str) else published
    return tuple(prefix + name for name in full)


def _add(names: dict[str, tuple[str, ...]], own: str, published: tuple[str, ...]) -> None:
    if all(name.endswith(".*") for name in published):
        for kind in ("weight", "bias"):
            names[f"{own}.{kind}"] = tuple(name[:-1] + kind for name in published)
    else:
        names[f"{own}.weight"] = published
