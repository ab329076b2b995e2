"""A mixture of experts in the place of an MLP: every token goes through the few that it is sent to.

Shape suffixes of tensors, one letter per axis:
    R  rows still computed, see `encoder`
    E  hidden size; I  intermediate size of an expert
    X  experts; A  experts that a token goes through
    P  pairs of a row and one of its experts, R * A
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.model.linear import Linear, make_linear


class ExpertMlp:
    """The experts of one layer.

    A token's value depends on that token alone: its scores are a product of its own row, and no
    expert is ever full.
    """

    def __init__(
        self,
        router_XE: Tensor,
        experts: list[tuple[Linear, Linear]],
        bias_E: Tensor,
        active: int,
        activation: str,
    ) -> None:
        """Take over the weights.

        Args:
            router_XE: float32.
            experts: the products of each, [R, E] → [R, I] → [R, E].
            bias_E: added once to the sum of a token's experts.
            active: experts per token.
            activation: between the two products.
        """
        self._router_XE = router_XE
        self._experts = experts
        self._bias_E = bias_E
        self._active = active
        self._activation = activation

    def __call__(self, hidden_RE: Tensor, residual: Tensor | None = None) -> Tensor:
        """Sum of the experts of each row, weighted, plus bias and residual [R, E]: [R, E]."""
        scores_RX = functional.linear(hidden_RE.float(), self._router_XE).softmax(dim=1)
        weights_RA, chosen_RA = scores_RX.topk(self._active, dim=1)
        chosen_P, weights_P1 = chosen_RA.flatten(), weights_RA.reshape(-1, 1).to(hidden_RE.dtype)
        by_expert_P = chosen_P.argsort(stable=True)
        counts = chosen_P.bincount(minlength=len(self._experts)).tolist()
        sum_RE = self._bias_E.repeat(hidden_RE.shape[0], 1)
        for (up, down), pairs in zip(self._experts, torch.split(by_expert_P, counts), strict=True):
            if pairs.shape[0]:
                rows = pairs // self._active
                out = down(up(hidden_RE[rows], activation=self._activation))
                sum_RE.index_add_(0, rows, out.mul_(weights_P1[pairs]))
        return sum_RE if residual is None else sum_RE.add_(residual)


def take_experts(
    weights: dict[str, Tensor], prefix: str, config: EncoderConfig, quantize: bool
) -> ExpertMlp:
    """The experts of the layer with a prefix; their tensors leave `weights`.

    Published for all experts together, [X * I, E] both: the second product's as its transpose.
    """
    assert config.experts is not None
    names = ("router", "expert_up", "expert_down", "expert_bias")
    router, ups, downs, bias = (weights.pop(f"{prefix}{name}.weight") for name in names)
    experts = [
        (
            make_linear(up.contiguous(), None, quantize=quantize),
            make_linear(down.t().contiguous(), None, quantize=quantize),
        )
        for up, down in zip(
            torch.split(ups, config.intermediate_size),
            torch.split(downs, config.intermediate_size),
            strict=True,
        )
    ]
    return ExpertMlp(router.float(), experts, bias, config.experts.active, config.activation)
