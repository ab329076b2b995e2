"""Read the weights of an encoder, with what an adapter adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.encoder.checkpoint.safetensors_headers import MatchedTensors, TensorInfo


def load_weights(
    matched: MatchedTensors, names: list[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Read tensors by bei-jobs' own names, their sources concatenated along the first axis.

    Only safetensors are opened. Each source is converted as it is read, so a 32-bit checkpoint is
    never in memory twice.
    """
    infos = [source for name in names for source in matched.sources[name]]
    files = {info.file for info in infos} | {info.lora.file for info in infos if info.lora}
    handles = {file: safe_open(file, framework="pt") for file in files}
    weights: dict[str, Tensor] = {}
    for name in names:
        sources = [
            _source(handles, source, device).to(device, dtype) for source in matched.sources[name]
        ]
        weights[name] = sources[0] if len(sources) == 1 else torch.cat(sources)
    return weights


def load_rows(info: TensorInfo, rows: Sequence[int], device: torch.device) -> Tensor:
    """Some rows of a published matrix, with what an adapter adds to them, [R, width] float32.

    The others are not read: a matrix of logits has a row for each token.
    """
    with safe_open(info.file, framework="pt") as handle:
        matrix = handle.get_slice(info.name)
        found = torch.cat([matrix[row : row + 1] for row in rows]).to(device, torch.float32)
    if (lora := info.lora) is None:
        return found
    with safe_open(lora.file, framework="pt") as handle:
        down, up = (_read(handle, n).to(device, torch.float32) for n in (lora.down, lora.up))
    if lora.transposed:
        down, up = up.T, down.T
    return found + lora.scale * (up[list(rows)] @ down)


def _source(handles: Mapping[Path, Any], info: TensorInfo, device: torch.device) -> Tensor:
    """One published tensor; with what an adapter adds to it, in float32."""
    tensor = _read(handles[info.file], info.name)
    if (lora := info.lora) is None:
        return tensor
    down, up = (
        _read(handles[lora.file], n).to(device, torch.float32) for n in (lora.down, lora.up)
    )
    added = lora.scale * (up @ down)
    return tensor.to(device, torch.float32) + (added.T if lora.transposed else added)


def _read(handle: Any, name: str) -> Tensor:
    tensor: Tensor = handle.get_tensor(name)
    return tensor
