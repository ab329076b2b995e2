"""Tables of token vectors without an encoder: StaticEmbedding of sentence-transformers, model2vec.

A text's vector is the mean of its tokens' rows; no special token is added. Of a
SparseStaticEmbedding, each token has one weight.
"""

from __future__ import annotations

from typing import Any

from pipeline.encoder.architecture.config_keys import Tensors
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import is_whole
from pipeline.encoder.checkpoint.safetensors_headers import (
    MatchedTensors,
    TensorInfo,
    check_floats,
    match,
)
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

# transformers writes 10^30 where a tokenizer has no limit.
_NO_LIMIT = 10**9


def static(checkpoint: Checkpoint, tensors: Tensors) -> tuple[EncoderConfig, MatchedTensors]:
    """The settings and tensors of a table.

    model2vec may share one row among several tokens (`mapping`, token → row) and scale each token's
    row (`weights`).

    Raises:
        CheckpointError: tensors are missing, left over, of other shapes or types, or tokenizer.json
            cuts texts at their start.
    """
    where, sparse = str(checkpoint.folder), checkpoint.files.sparse_table
    if "embeddings" in tensors:
        optional = {"token_rows.weight": "mapping", "token_weights.weight": "weights"}
        names = {own: (name,) for own, name in optional.items() if name in tensors}
        names["tokens.weight"] = ("embeddings",)
    elif sparse:
        names = {"tokens.weight": ("weight",)}
    else:
        names = {"tokens.weight": ("embedding.weight",)}
    matched = match(names, tensors, (), where)
    table, rows, weights = (
        matched.sources.get(f"{own}.weight", (None,))[0]
        for own in ("tokens", "token_rows", "token_weights")
    )
    assert table is not None
    check_floats([info for info in (table, weights) if info is not None], where)
    _check_shape(table, 1 if sparse else 2, None, where)
    vocabulary = table.shape[0]
    if rows is not None:
        _check_shape(rows, 1, None, where)
        if not rows.dtype.startswith(("I", "U")):
            raise CheckpointError(f"{where}: {rows.name} has the type {rows.dtype}, not integers")
        vocabulary = rows.shape[0]
    if weights is not None:
        _check_shape(weights, 1, vocabulary, where)
    if sparse:
        return _config(vocabulary, 1, _stated_limit(checkpoint)), matched
    return _config(vocabulary, table.shape[1], _limit(checkpoint)), matched


def _check_shape(info: TensorInfo, axes: int, length: int | None, where: str) -> None:
    if len(info.shape) != axes or 0 in info.shape or length not in (None, info.shape[0]):
        expected = f"{axes} axes" if length is None else f"{length:,} values, one of each token,"
        raise CheckpointError(
            f"{where}: {info.name} has the shape {list(info.shape)} where {expected} are expected",
            hint="check that these weights belong to a StaticEmbedding or a model2vec model",
        )


def _limit(checkpoint: Checkpoint) -> int | None:
    """Tokens that tokenizer.json itself cuts texts to, None for all of them."""
    outline = checkpoint.files.tokenizer
    truncation = outline.truncation if outline is not None else {}
    if not truncation:
        return None
    limit: Any = truncation.get("max_length")
    if truncation.get("direction", "Right") != "Right" or not is_whole(limit) or limit < 1:
        raise CheckpointError(
            f"{checkpoint.folder / 'tokenizer.json'} truncates by {shown(truncation)}; bei-jobs "
            "cuts the end of a text",
            hint='set "truncation" in it to null, and choose with --max-length and --truncate',
        )
    return int(limit)


def _stated_limit(checkpoint: Checkpoint) -> int | None:
    """Tokens that SparseStaticEmbedding cuts texts to: those that tokenizer_config.json states."""
    settings = checkpoint.files.json(checkpoint.folder / "tokenizer_config.json")
    limit: Any = settings.get("model_max_length")
    return int(limit) if is_whole(limit) and 1 <= limit < _NO_LIMIT else None


def _config(vocabulary: int, dimensions: int, limit: int | None) -> EncoderConfig:
    return EncoderConfig(
        family="static",
        vocab_size=vocabulary,
        hidden_size=dimensions,
        intermediate_size=0,
        layers=0,
        heads=1,
        kv_heads=1,
        head_dim=dimensions,
        norm="layer",
        norm_eps=0.0,
        norm_placement="post",
        embedding_norm=False,
        final_norm=False,
        activation="gelu",
        gated=False,
        max_length=limit,
    )
