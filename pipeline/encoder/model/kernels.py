"""What stands around the products of a layer, in torch; `fused_kernels` has the same in Triton.

An encoder takes these functions from its `Kernels`, so that a GPU may have others. Each is the
definition of the fused kernel of its name: that one rounds where this one rounds.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together; R  rows, see `encoder`
    E  hidden size; I  intermediate size of the MLP
    N  heads of queries, then of keys; H  query heads; K  key heads; D  head size
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.pooling import Pool, pooled
from pipeline.encoder.model.positions import rotate


@dataclass(frozen=True, slots=True)
class Norm:
    """The weights of one LayerNorm or RMSNorm over the last axis."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    layer: bool  # LayerNorm, else RMSNorm

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `x`, in its dtype; float32 inside."""
        weight = self.weight
        if self.layer:
            return functional.layer_norm(x, weight.shape, weight, self.bias, self.eps)
        # Gemma's weights are float32 whatever the activations are.
        return functional.rms_norm(x.to(weight.dtype), weight.shape, weight, self.eps).to(x.dtype)


def norm(x_RE: Tensor, by: Norm) -> Tensor:
    """The norm of every row, [R, E]."""
    return by(x_RE)


def add_norm(x_RE: Tensor, residual_RE: Tensor, by: Norm) -> tuple[Tensor, Tensor]:
    """Add a residual to `x_RE` in place; the sum, and its norm."""
    return x_RE.add_(residual_RE), by(x_RE)


def norm_add(x_RE: Tensor, residual_RE: Tensor, by: Norm) -> Tensor:
    """The norm of every row, plus a residual."""
    return by(x_RE).add_(residual_RE)


def rotate_heads(
    heads_TND: Tensor, queries: int, rotation_T1D: Tensor, norms: tuple[Norm, Norm] | None
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions.

    Args:
        heads_TND: queries, then keys, side by side.
        queries: how many of the heads are queries.
        rotation_T1D: see `positions.rotations`.
        norms: of queries and of keys, each head by itself, before they are rotated; None for none.

    Returns:
        Queries [T, H, D] and keys [T, K, D].
    """
    split = [queries, heads_TND.shape[1] - queries]
    if norms is None:  # queries and keys are side by side: one rotation turns both
        query_THD, key_TKD = torch.split(rotate(heads_TND, rotation_T1D), split, dim=1)
        return query_THD, key_TKD
    query_THD, key_TKD = torch.split(heads_TND, split, dim=1)
    return rotate(norms[0](query_THD), rotation_T1D), rotate(norms[1](key_TKD), rotation_T1D)


def gate(gate_up_RI: Tensor, activation: str, gate_first: bool) -> Tensor:
    """activation(gate) * up of the two halves of every row, [R, 2 * I] → [R, I]; may overwrite."""
    first_RI, second_RI = gate_up_RI.chunk(2, dim=1)
    gate_RI, up_RI = (first_RI, second_RI) if gate_first else (second_RI, first_RI)
    return activate_(gate_RI, activation).mul_(up_RI)


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of each function above, and of `pooling.pooled`."""

    norm: Callable[[Tensor, Norm], Tensor] = norm
    add_norm: Callable[[Tensor, Tensor, Norm], tuple[Tensor, Tensor]] = add_norm
    norm_add: Callable[[Tensor, Tensor, Norm], Tensor] = norm_add
    rotate_heads: Callable[
        [Tensor, int, Tensor, tuple[Norm, Norm] | None], tuple[Tensor, Tensor]
    ] = rotate_heads
    gate: Callable[[Tensor, str, bool], Tensor] = gate
    pooled: Pool = pooled


PLAIN = Kernels()
