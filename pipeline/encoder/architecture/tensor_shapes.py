"""The shape of every tensor that an encoder and its head have: what config.json promises.

Shapes: V vocabulary, E hidden size, H query heads, K key heads, D head size, I intermediate size,
C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.safetensors_headers import Matched, TensorInfo, list_some
from pipeline.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Size:
    """Rows of one of our tensors, by the parts it may be published in; its bias has as many."""

    rows: tuple[int, ...]
    columns: int | None = None  # None: a vector, as the scale of a norm

    def shapes(self, kind: str, sources: int) -> tuple[Shape, ...]:
        rows = self.rows if sources == len(self.rows) else (sum(self.rows),)
        if kind == "bias" or self.columns is None:
            return tuple((n,) for n in rows)
        return tuple((n, self.columns) for n in rows)


def check_shapes(encoder: EncoderConfig, matched: Matched, where: str) -> None:
    """Hold every matched tensor against the sizes of the config.

    Raises:
        CheckpointError: tensors of another shape: listed, each with what is expected.
    """
    sizes = _sizes(encoder)
    wrong = []
    for name, sources in matched.sources.items():
        path, _, kind = name.rpartition(".")  # layers.3.qkv, weight
        expected = sizes[path.rpartition(".")[2]].shapes(kind, len(sources))
        if len(expected) != len(sources) or any(
            source.shape != shape for source, shape in zip(sources, expected, strict=False)
        ):
            wrong.append(_difference(sources, expected))
    if wrong:
        raise CheckpointError(
            f"{where}: the shapes of tensors are not those of its config.json; {list_some(wrong)}",
            hint="config.json does not belong to these weights.",
        )


def _sizes(encoder: EncoderConfig) -> Mapping[str, _Size]:
    """By our names, without the layer."""
    hidden, inner = encoder.hidden_size, encoder.intermediate_size  # E, I
    queries = encoder.heads * encoder.head_dim  # H * D
    keys = encoder.kv_heads * encoder.head_dim  # K * D
    whole = encoder.qk_norm == "full_width"
    norms = (
        "embed_norm", "final_norm", "attn_norm", "attn_out_norm", "attn_residual_norm",
        "mlp_norm", "mlp_out_norm", "head_norm",
    )  # fmt: skip
    return {
        **dict.fromkeys(norms, _Size((hidden,))),
        "tokens": _Size((encoder.vocab_size,), hidden),
        "positions": _Size((encoder.position_table,), hidden),
        "types": _Size((encoder.token_types,), hidden),
        "relative_bias": _Size((encoder.relative_buckets,), encoder.heads),
        "qkv": _Size((queries, keys, keys), hidden),
        "q_norm": _Size((queries if whole else encoder.head_dim,)),
        "k_norm": _Size((keys if whole else encoder.head_dim,)),
        "attn_out": _Size((hidden,), queries),
        "up": _Size((inner,), hidden),
        "gate_up": _Size((inner, inner), hidden),
        "down": _Size((hidden,), inner),
        "projection": _Size((encoder.projection,), hidden),
        "head_dense": _Size((hidden,), hidden),
        "classifier": _Size((len(encoder.labels),), hidden),
    }


def _difference(sources: tuple[TensorInfo, ...], expected: tuple[Shape, ...]) -> str:
    found = " + ".join(f"{source.name} {list(source.shape)}" for source in sources)
    return f"{found} where {' + '.join(str(list(shape)) for shape in expected)} is expected"
