"""Stand-ins on a CPU for what only a GPU has.

Attention is computed sequence by sequence and leaves NaN where no sequence is, as a variable-length
kernel leaves what lay there; a graph's replay computes again from the captured inputs into the
captured rows, and its products sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder import cuda_graphs
from pipeline.encoder.model import encoder
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.attention import varlen_supported
from pipeline.encoder.model.linear import PackedLinear
from pipeline.encoder.model.varlen_kernels import Sequences


def attend(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """A variable-length kernel, and what it asks of its inputs."""
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert sequences.cu_seqlens.dtype == torch.int32
    out = torch.full(query.shape, torch.nan, dtype=query.dtype)
    for start, stop in pairwise(sequences.cu_seqlens.tolist()):
        assert stop - start <= sequences.max_seqlen
        if start == stop:
            continue
        q, k, v = (x[start:stop].float().transpose(0, 1)[None] for x in (query, key, value))
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = torch.ones_like(distance, dtype=torch.bool)
        if sequences.window is not None:
            seen &= distance.abs() <= sequences.window
        if sequences.causal:
            seen &= distance >= 0
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=sequences.scale, enable_gqa=True
        )
        out[start:stop] = attended[0].transpose(0, 1).to(query.dtype)
    return out


class HalfLinear:
    """A product of 16-bit values with a float32 sum; in a replay the sum is taken in two parts."""

    replaying = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(
        self, x: Tensor, activation: str | None = None, residual: Tensor | None = None
    ) -> Tensor:
        wide, weight = x.float(), self._weight.float()
        middle = x.shape[1] // 3 if HalfLinear.replaying else 0
        out = wide[:, middle:] @ weight[:, middle:].T + wide[:, :middle] @ weight[:, :middle].T
        out = (out if self._bias is None else out + self._bias.float()).to(x.dtype)
        if activation is not None:
            activate_(out, activation)
        return out if residual is None else out.add_(residual)


def recorded(work: Callable[[], Tensor], stream: Any, pool: Any) -> tuple[Any, Tensor]:
    """What `capture` gives: nothing is in the rows before the first replay."""
    rows = torch.full_like(work(), torch.nan)

    def replay() -> None:
        HalfLinear.replaying = True
        try:
            rows.copy_(work())
        finally:
            HalfLinear.replaying = False

    return SimpleNamespace(replay=replay), rows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on an engine on the CPU goes the way of a GPU, where its precision has 16 bits."""

    def supported(config: Any, device: torch.device, dtype: torch.dtype) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
            return varlen_supported(config, torch.device("cuda"), dtype)

    def linear(weight: Tensor, bias: Tensor | None, *, quantize: bool = False) -> Any:
        wide = weight.dtype == torch.float32
        return PackedLinear(weight, bias) if wide else HalfLinear(weight, bias)

    monkeypatch.setattr(encoder, "varlen_supported", supported)
    monkeypatch.setattr(encoder, "choose_kernel", lambda *_: attend)
    monkeypatch.setattr(encoder, "make_linear", linear)
    monkeypatch.setattr(cuda_graphs, "capture", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
