"""The shape that every tensor of an encoder and its head must have, by config.json.

Shapes: V vocabulary, E hidden size, H query heads, K key heads, D head size, I intermediate size,
C classes, X experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.header_entries import Shape
from pipeline.encoder.checkpoint.safetensors_headers import (
    MatchedTensors,
    TensorInfo,
    list_some,
)
from pipeline.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class _Size:
    """The size of a tensor under its own name; its bias has as many rows."""

    rows: tuple[int, ...]  # of each part, if it may be published in parts
    columns: int | None = None  # None for a vector, such as the weight of a norm

    def shapes(self, kind: str, sources: int) -> tuple[Shape, ...]:
        rows = self.rows if sources == len(self.rows) else (sum(self.rows),)
        if kind == "bias" or self.columns is None:
            return tuple((n,) for n in rows)
        return tuple((n, self.columns) for n in rows)


def check_shapes(config: EncoderConfig, matched: MatchedTensors, where: str) -> None:
    """Check the shape of every matched tensor against the sizes in the config.

    Raises:
        CheckpointError: shapes differ; the message lists the tensors with the expected shapes.
    """
    sizes = _sizes(config)
    differences = []
    for name, sources in matched.sources.items():
        path, _, kind = name.rpartition(".")  # layers.3.qkv, weight
        expected = sizes[path.rpartition(".")[2]].shapes(kind, len(sources))
        if len(expected) != len(sources) or any(
            source.shape != shape for source, shape in zip(sources, expected, strict=False)
        ):
            differences.append(_difference(sources, expected))
    if differences:
        raise CheckpointError(
            f"{where}: tensors do not have the shapes of its config.json; {list_some(differences)}",
            hint="use the config.json that belongs to these weights",
        )


def _sizes(config: EncoderConfig) -> Mapping[str, _Size]:
    """Sizes by own name, without the layer."""
    hidden, inner = config.hidden_size, config.intermediate_size  # E, I
    queries = config.heads * config.head_dim  # H * D
    keys = config.kv_heads * config.head_dim  # K * D
    experts = config.experts.count if config.experts else 0  # X
    full_width = config.qk_norm == "full_width"
    norms = (
        "embed_norm", "final_norm", "attn_norm", "attn_out_norm", "attn_residual_norm",
        "mlp_norm", "mlp_out_norm", "head_norm",
    )  # fmt: skip
    return {
        **dict.fromkeys(norms, _Size((hidden,))),
        "tokens": _Size((config.vocab_size,), hidden),
        "positions": _Size((config.position_table,), hidden),
        "types": _Size((config.token_types,), hidden),
        "relative_bias": _Size((config.relative_buckets,), config.heads),
        "qkv": _Size((queries, keys, keys), hidden),
        "q_norm": _Size((queries if full_width else config.head_dim,)),
        "k_norm": _Size((keys if full_width else config.head_dim,)),
        "attn_out": _Size((hidden,), queries),
        "up": _Size((inner,), hidden),
        "gate_up": _Size((inner, inner), hidden),
        "down": _Size((hidden,), inner),
        "router": _Size((experts,), hidden),
        "expert_up": _Size((experts * inner,), hidden),
        "expert_down": _Size((experts * inner,), hidden),
        "expert_bias": _Size((hidden,)),
        "projection": _Size((config.projection,), hidden),
        "head_dense": _Size((hidden,), hidden),
        "classifier": _Size((len(config.labels),), hidden),
        "lm_head": _Size((config.vocab_size,), hidden),
    }


def _difference(sources: tuple[TensorInfo, ...], expected: tuple[Shape, ...]) -> str:
    published = " + ".join(f"{source.name} {list(source.shape)}" for source in sources)
    return f"{published} where {' + '.join(str(list(shape)) for shape in expected)} is expected"
