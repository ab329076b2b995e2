"""Where a checkpoint has the weights of a text's terms, and how they are computed.

vocabulary  SPLADE: the logits of a masked language model, the largest or the sum over tokens
tokens      bge-m3: a linear layer weighs each token; a term has the largest of its tokens
table       a weight for each token of the vocabulary; nothing is computed
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.encoder.architecture.config_keys import Tensors, activation, config_errors
from pipeline.encoder.architecture.encoder_config import Activation, EncoderConfig
from pipeline.encoder.checkpoint.bounds import MAX_JSON_BYTES
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import model_class
from pipeline.encoder.checkpoint.header_entries import Shape
from pipeline.encoder.checkpoint.modules import SentenceModules, SparseModule
from pipeline.encoder.checkpoint.read_json import read_bounded
from pipeline.encoder.checkpoint.safetensors_headers import (
    MatchedTensors,
    TensorInfo,
    check_floats,
    list_some,
)
from pipeline.encoder.checkpoint.weight_files import TOKEN_WEIGHTS_NAME, TOKEN_WEIGHTS_PICKLE
from pipeline.errors import CheckpointError

# The most terms of a text that are kept unless the user names a number. One with more has no
# result: what is trained for sparse vectors gives a tenth of it.
MAX_TERMS = 4096
SparseKind = Literal["vocabulary", "tokens", "table"]
# Own name → published names, of which the first that is there is read.
_Names = Mapping[str, tuple[str, ...]]
_ROBERTA: _Names = {
    "dense.weight": ("lm_head.dense.weight",),
    "dense.bias": ("lm_head.dense.bias",),
    "norm.weight": ("lm_head.layer_norm.weight", "lm_head.norm.weight"),
    "norm.bias": ("lm_head.layer_norm.bias", "lm_head.norm.bias"),
    "decoder.weight": ("lm_head.decoder.weight",),
    "decoder.bias": ("lm_head.bias", "lm_head.decoder.bias"),
}
_BERT: _Names = {
    "dense.weight": ("cls.predictions.transform.dense.weight",),
    "dense.bias": ("cls.predictions.transform.dense.bias",),
    "norm.weight": ("cls.predictions.transform.LayerNorm.weight",),
    "norm.bias": ("cls.predictions.transform.LayerNorm.bias",),
    "decoder.weight": ("cls.predictions.decoder.weight",),
    "decoder.bias": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
}
_DISTILBERT: _Names = {
    "dense.weight": ("vocab_transform.weight",),
    "dense.bias": ("vocab_transform.bias",),
    "norm.weight": ("vocab_layer_norm.weight",),
    "norm.bias": ("vocab_layer_norm.bias",),
    "decoder.weight": ("vocab_projector.weight",),
    "decoder.bias": ("vocab_projector.bias",),
}
_MODERNBERT: _Names = {
    "dense.weight": ("head.dense.weight",),
    "dense.bias": ("head.dense.bias",),
    "norm.weight": ("head.norm.weight",),
    "norm.bias": ("head.norm.bias",),
    "decoder.weight": ("decoder.weight",),
    "decoder.bias": ("decoder.bias",),
}
# Family → names, and the keys of config.json for the activation; "gelu" where there is none.
_PREDICTION: dict[str, tuple[_Names, str]] = {
    "bert": (_BERT, "hidden_act"),
    "roberta": (_ROBERTA, ""),
    "xlm-roberta": (_ROBERTA, ""),
    "camembert": (_ROBERTA, ""),
    "mpnet": (_ROBERTA, ""),
    "gte": (_ROBERTA, ""),
    "modernbert": (_MODERNBERT, "classifier_activation"),
    "distilbert": (_DISTILBERT, "activation"),
    "transformers/distilbert": (_DISTILBERT, "activation"),
}
# Biases of ModernBERT that are there only where config.json says so, and whether it does by itself.
_FLAGS = {
    "dense.bias": ("classifier_bias", False),
    "norm.bias": ("norm_bias", False),
    "decoder.bias": ("decoder_bias", True),
}
# DistilBERT's, which no config names.
_DISTILBERT_EPS = 1e-12
_TOKEN_WEIGHTS: _Names = {
    "weight": ("weight", "sparse_linear.weight"),
    "bias": ("bias", "sparse_linear.bias"),
}
CONVERT = (
    f"bge-m3's lexical weights are read from {TOKEN_WEIGHTS_NAME}; convert the published "
    f"{TOKEN_WEIGHTS_PICKLE} once, in a sandbox: safetensors.torch.save_file(torch.load("
    f'"{TOKEN_WEIGHTS_PICKLE}", weights_only=True), "{TOKEN_WEIGHTS_NAME}")'
)


@dataclass(frozen=True, slots=True)
class SparseHead:
    """How the terms of a text are weighed, and which tensors do it, by own name."""

    kind: SparseKind
    tensors: Mapping[str, TensorInfo]
    pooling: str = "max"
    activation: str = "relu"
    transform: Activation = "gelu"  # of a prediction head, before its norm
    norm_eps: float = 0.0
    sha256: str = ""  # of weights in a file of their own

    def identity(self) -> dict[str, Any]:
        """The facts that shape values, as JSON; keys, values and their meaning are frozen."""
        facts: dict[str, Any] = {
            "kind": self.kind,
            "tensors": [info.name for info in self.tensors.values()],
        }
        if self.kind == "vocabulary":
            facts |= {
                "pooling": self.pooling,
                "activation": self.activation,
                "transform": self.transform,
                "norm_eps": self.norm_eps,
            }
        return facts | ({"sha256": self.sha256} if self.sha256 else {})


def find_sparse_head(
    checkpoint: Checkpoint,
    modules: SentenceModules,
    config: EncoderConfig,
    matched: MatchedTensors | None,
) -> SparseHead | None:
    """The head that a checkpoint weighs terms with; None if it has none.

    A masked language model without module files is one as SparseEncoder reads it.

    Args:
        checkpoint: whose tensors are looked at.
        modules: of the checkpoint.
        config: of its encoder.
        matched: the encoder's tensors, None if transformers computes it.

    Raises:
        CheckpointError: its module files ask for one, and its tensors do not have it.
    """
    tensors = checkpoint.files.tensors
    if modules.sparse is not None and modules.sparse.table and matched is not None:
        (table,) = matched.sources["tokens.weight"]
        return SparseHead("table", {"weight": table})
    if modules.sparse is not None:
        return _prediction(checkpoint, config, modules.sparse)
    if not checkpoint.files.modules and model_class(checkpoint.config).endswith("ForMaskedLM"):
        found = _PREDICTION.get(config.family)
        there = found is not None and any(name in tensors for name in found[0]["dense.weight"])
        return _prediction(checkpoint, config, SparseModule()) if there else None
    if config.family == "xlm-roberta":
        return _token_weights(checkpoint, config)
    return None


def _prediction(checkpoint: Checkpoint, config: EncoderConfig, module: SparseModule) -> SparseHead:
    """The prediction head of a masked language model, whose decoder is mostly the embeddings."""
    settings, where = checkpoint.config, str(checkpoint.folder)
    if config.family not in _PREDICTION:
        family = config.family.removeprefix("transformers/")
        raise CheckpointError(
            f"{checkpoint.name}: bei-jobs does not know the prediction head of {family}, which "
            "weighs the terms",
            hint="use a SPLADE of one of these: BERT, DistilBERT, RoBERTa, XLM-R, MPNet, "
            "ModernBERT, GTE",
        )
    published, key = _PREDICTION[config.family]
    modern = config.family == "modernbert"
    wanted = {
        own: names
        for own, names in published.items()
        if not (modern and own in _FLAGS and not settings.get(*_FLAGS[own]))
    }
    if settings.get("tie_word_embeddings", True):
        wanted["decoder.weight"] = _embedding_names(checkpoint.files.tensors)
    elif "decoder.bias" in wanted:  # that of the decoder itself, if both are there
        wanted["decoder.bias"] = wanted["decoder.bias"][::-1]
    hidden, terms = config.hidden_size, config.vocab_size
    shapes: dict[str, Shape] = {
        "dense.weight": (hidden, hidden),
        "decoder.weight": (terms, hidden),
        "decoder.bias": (terms,),
    }
    found = _found(wanted, checkpoint.files.tensors, where)
    if wanted["decoder.weight"] != published["decoder.weight"]:
        (own,) = published["decoder.weight"]
        found["decoder.weight"] = checkpoint.files.adapted(own, found["decoder.weight"])
    _check_shapes(found, {own: shapes.get(own, (hidden,)) for own in found}, where)
    eps = _DISTILBERT_EPS if config.foreign else config.norm_eps
    with config_errors(checkpoint):
        transform = activation(settings.get(key, "gelu")) if key else activation("gelu")
    return SparseHead("vocabulary", found, module.pooling, module.activation, transform, eps)


def _embedding_names(tensors: Tensors) -> tuple[str, ...]:
    ends = ("embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight")
    return tuple(name for name in tensors if name.endswith(ends)) or (ends[0],)


def _token_weights(checkpoint: Checkpoint, config: EncoderConfig) -> SparseHead | None:
    """bge-m3's layer over each token, in a file of its own or among the encoder's tensors."""
    tensors, where, sha256 = checkpoint.files.tensors, str(checkpoint.folder), ""
    names: _Names = {"weight": ("sparse_linear.weight",), "bias": ("sparse_linear.bias",)}
    file = checkpoint.folder / TOKEN_WEIGHTS_NAME
    if file.is_file():
        tensors, where, names = checkpoint.files.header(file), str(file), _TOKEN_WEIGHTS
        sha256 = hashlib.sha256(read_bounded(file, MAX_JSON_BYTES)).hexdigest()
    elif "sparse_linear.weight" not in tensors:
        return None
    found = _found(names, tensors, where)
    found = {
        own: checkpoint.files.adapted(f"sparse_linear.{own}", info) for own, info in found.items()
    }
    size = config.hidden_size
    shapes: dict[str, Shape] = {"weight": (1, size), "bias": (1,)}
    if len(found["weight"].shape) == 1:
        shapes["weight"] = (size,)
    if found["bias"].shape == ():
        shapes["bias"] = ()
    _check_shapes(found, shapes, where)
    return SparseHead("tokens", found, sha256=sha256)


def _found(names: _Names, tensors: Tensors, where: str) -> dict[str, TensorInfo]:
    found = {
        own: tensors[name]
        for own, published in names.items()
        for name in [next((name for name in published if name in tensors), "")]
        if name
    }
    if missing := [published[0] for own, published in names.items() if own not in found]:
        raise CheckpointError(
            f"{where}: tensors that weigh terms are missing: {list_some(missing)}",
            hint="check that the download is complete, and that these are the weights of a "
            "masked language model",
        )
    check_floats(found.values(), where)
    return found


def _check_shapes(found: Mapping[str, TensorInfo], shapes: Mapping[str, Shape], where: str) -> None:
    odd = [
        f"{info.name} {list(info.shape)} where {list(shapes[own])} is expected"
        for own, info in found.items()
        if info.shape != shapes[own]
    ]
    if odd:
        raise CheckpointError(
            f"{where}: tensors do not have the shapes of its config.json; {list_some(odd)}",
            hint="use the config.json that belongs to these weights",
        )
