"""The tensors of the modules after pooling: those that their configs require, and their files."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.header_entries import Shape
from pipeline.encoder.checkpoint.modules import (
    DenseModule,
    LayerNormModule,
    Module,
    NormalizeModule,
    TruncateModule,
)
from pipeline.encoder.checkpoint.safetensors_headers import (
    TensorInfo,
    check_floats,
    list_some,
)
from pipeline.encoder.checkpoint.weight_files import WEIGHTS_NAME, no_safetensors
from pipeline.errors import CheckpointError


def module_tensors(files: CheckpointFiles, step: Module) -> Mapping[str, TensorInfo]:
    """The tensors of one module by name: exactly those that its config requires.

    Raises:
        CheckpointError: its file is missing or damaged, or holds other tensors.
    """
    if isinstance(step, NormalizeModule | TruncateModule):
        return {}
    required = _module_shapes(step)
    file = files.path / step.folder / WEIGHTS_NAME
    if not file.is_file():
        raise no_safetensors(file.parent)
    header = files.header(file)
    shapes = {name: info.shape for name, info in header.items()}
    if shapes != required:
        raise CheckpointError(
            f"{file} holds {_listed(shapes)}; its config requires {_listed(required)}",
            hint="check that the weights and the config.json beside them belong together",
        )
    check_floats(header.values(), str(file))
    return header


def _module_shapes(step: DenseModule | LayerNormModule) -> dict[str, Shape]:
    """The tensors that a module needs, by name."""
    if isinstance(step, LayerNormModule):
        return {"norm.weight": (step.dimension,), "norm.bias": (step.dimension,)}
    shapes: dict[str, Shape] = {"linear.weight": (step.out_features, step.in_features)}
    if step.bias:
        shapes["linear.bias"] = (step.out_features,)
    if step.residual and step.in_features != step.out_features:
        shapes["residual.weight"] = (step.out_features, step.in_features)
    return shapes


def _listed(shapes: Mapping[str, Shape]) -> str:
    return list_some([f"{name} {list(shape)}" for name, shape in sorted(shapes.items())])
