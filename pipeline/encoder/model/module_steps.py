"""The modules of sentence-transformers after pooling: their weights, and what they compute.

Shape suffixes of tensors: S sequences, or tokens where each has a vector; V width of a vector.
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.checkpoint.modules import (
    LayerNormModule,
    Module,
    NormalizeModule,
    TruncateModule,
)
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.safetensors_headers import MatchedTensors, TensorInfo
from pipeline.encoder.model.read_weights import load_weights
from pipeline.errors import CheckpointError

# torch.nn.LayerNorm's default: the module file states none, and Nomic's model card passes none.
LAYER_NORM_EPS = 1e-5


def module_weights(tensors: Mapping[str, TensorInfo], device: torch.device) -> dict[str, Tensor]:
    """Tensors of one module with what an adapter adds to them, float32.

    Raises:
        CheckpointError: its file is damaged.
    """
    weights: dict[str, Tensor] = {}
    for name, info in tensors.items():
        try:
            matched = MatchedTensors({name: (info,)}, ())
            weights |= load_weights(matched, [name], device, torch.float32)
        except SafetensorError as error:
            raise CheckpointError(
                f"{info.file} is damaged: {error}", hint=DOWNLOAD_AGAIN
            ) from error
    return weights


def apply_module(step: Module, weights: Mapping[str, Tensor], rows_SV: Tensor) -> Tensor:
    """The vectors after a module, [S, V]."""
    if isinstance(step, NormalizeModule):
        return functional.normalize(rows_SV, dim=1)
    if isinstance(step, TruncateModule):
        return rows_SV[:, : step.dimensions]
    if isinstance(step, LayerNormModule):
        weight, bias = weights["norm.weight"], weights["norm.bias"]
        return functional.layer_norm(rows_SV, (step.dimension,), weight, bias, LAYER_NORM_EPS)
    out_SV = functional.linear(rows_SV, weights["linear.weight"], weights.get("linear.bias"))
    activated_SV: Tensor = getattr(torch.nn, step.activation)()(out_SV)
    if not step.residual:
        return activated_SV
    if step.in_features != step.out_features:
        rows_SV = functional.linear(rows_SV, weights["residual.weight"])
    return activated_SV + rows_SV
