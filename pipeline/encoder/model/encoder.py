"""The forward pass: packed token ids to hidden states, one readable function for every family.

Shapes: T tokens of all sequences together, E hidden size, H query heads, K key heads, D head
size, I intermediate size. Nothing is padded and no tensor has a batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads, Rope
from pipeline.encoder.checkpoint.safetensors_headers import Matched
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.attention import (
    GroupedAttention,
    PositionBias,
    VarlenAttention,
    runs,
    varlen_supported,
)
from pipeline.encoder.model.linear import Linear, make_linear
from pipeline.encoder.model.packed_batch import PackedBatch, read_tokens
from pipeline.encoder.model.positions import ranks, rotate, rotations, skip_padding
from pipeline.encoder.model.varlen_kernels import Kernel, choose

Weights = Mapping[str, Tensor]
# Our names of the matrices that tokens are multiplied with.
_PRODUCTS = ("qkv", "attn_out", "up", "gate_up", "down")
Attention = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]


def load_weights(
    matched: Matched, names: list[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Read the named tensors of ours, sources concatenated along their first axis.

    Only safetensors are opened; each source is converted on arrival, so a checkpoint in 32 bits
    never lies in memory twice.
    """
    files = {source.file for name in names for source in matched.sources[name]}
    handles = {file: safe_open(file, framework="pt") for file in files}
    loaded: dict[str, Tensor] = {}
    for name in names:
        parts = [
            _read(handles[source.file], source.name).to(device, dtype)
            for source in matched.sources[name]
        ]
        loaded[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return loaded


def _read(handle: Any, name: str) -> Tensor:
    tensor: Tensor = handle.get_tensor(name)
    return tensor


class Encoder:
    """Weights and settings of one encoder on one device."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Weights,
        device: torch.device,
        dtype: torch.dtype,
        *,
        quantize: bool = False,
        reads: Reads = "all",
    ) -> None:
        """Take the weights over.

        Args:
            config: sizes and settings.
            weights: by our names, in `dtype` on `device`.
            device: where to compute.
            dtype: of weights and activations.
            quantize: products of 8-bit integers, float32 outside.
            reads: what the head reads; for one token a sequence, the last layer ends with those.
        """
        self.config = config
        self.reads = reads
        self.device = device
        self.dtype = dtype
        self._weights = dict(weights)
        self.linears = self._take_linears(quantize)
        if config.norm == "rms_plus_one":
            for name in [n for n in self._weights if n.endswith("norm.weight")]:
                self._weights[name] = 1.0 + self._weights[name].float()
        self._kernel: Kernel | None = None
        if varlen_supported(config, device, dtype):
            self._kernel = choose(config, device, dtype)
        self._bias: PositionBias | None = None
        if config.alibi or config.relative_buckets:
            self._bias = PositionBias(config, weights.get("relative_bias.weight"), device)
        # By length, and none is ever replaced: a CUDA graph reads the one it was captured with.
        self._rotations: dict[tuple[Rope, int], Tensor] = {}

    def _take_linears(self, quantize: bool) -> dict[str, Linear]:
        """Linears by name; their weights are kept in the layout of the product alone."""
        found: dict[str, Linear] = {}
        for name in [n for n in self._weights if n.endswith(".weight")]:
            at = name.removesuffix(".weight")
            if at.rpartition(".")[2] in _PRODUCTS:
                weight, bias = self._weights.pop(name), self._weights.pop(f"{at}.bias", None)
                found[at] = make_linear(weight, bias, quantize=quantize)
        return found

    @property
    def capturable(self) -> bool:
        """Whether a forward pass never waits for the device, so that a CUDA graph can hold it."""
        return self._kernel is not None

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Hidden states after the last layer in the encoder's dtype: [T, E], or [S, E] of the
        token that is read of each sequence.
        """
        config = self.config
        attend = self._attention(batch)
        positions = ranks(batch)
        rotations = self._rotate_by(positions, batch.max_seqlen)
        hidden = self._embed(batch, positions)
        for layer in range(config.layers):
            rotation = rotations[config.ropes[layer]] if config.ropes else None
            read = read_tokens(batch, self.reads) if layer == config.layers - 1 else None
            hidden = self._layer(layer, hidden, attend, rotation, read)
        return self._norm("final_norm", hidden) if config.final_norm else hidden

    def _attention(self, batch: PackedBatch) -> Attention:
        if self._kernel is not None:
            return VarlenAttention(self.config, batch.cu_seqlens, batch.max_seqlen, self._kernel)
        return GroupedAttention(self.config, runs(batch.offsets), self._bias)

    def _embed(self, batch: PackedBatch, positions: Tensor) -> Tensor:
        config, weights = self.config, self._weights
        hidden = functional.embedding(batch.ids, weights["tokens.weight"])  # [T, E]
        if config.embedding_scale != 1.0:
            hidden.mul_(config.embedding_scale)
        if config.position_table:
            learned = positions
            if config.position_padding is not None:
                learned = skip_padding(batch, config.position_padding)
            hidden.add_(functional.embedding(learned, weights["positions.weight"]))
        if config.token_types and batch.type_ids is not None and config.token_types > 1:
            hidden.add_(functional.embedding(batch.type_ids, weights["types.weight"]))
        elif config.token_types:
            hidden.add_(weights["types.weight"][0])
        return self._norm("embed_norm", hidden) if config.embedding_norm else hidden

    def _layer(
        self,
        layer: int,
        hidden: Tensor,
        attend: Attention,
        rotation: Tensor | None,
        read: Tensor | None,
    ) -> Tensor:
        """One layer: the same two branches, normed where the family norms.

        Every token attends; what follows is computed for the tokens that are `read`, [S], alone.
        """
        at = f"layers.{layer}."
        placement = self.config.norm_placement
        before = placement in ("pre", "sandwich")
        # ModernBERT's first layer has no norm before attention: its input is normed already.
        normed_input = before and f"{at}attn_norm.weight" in self._weights
        branch = self._norm(f"{at}attn_norm", hidden) if normed_input else hidden
        attended = self._attend(layer, branch, attend, rotation)  # [T, H * D]
        if read is not None:
            attended, hidden = attended[read], hidden[read]
        # A branch's sum with its input is part of its last product, unless a norm stands between.
        residual = None if placement == "sandwich" else hidden
        branch = self.linears[f"{at}attn_out"](attended, residual=residual)
        if placement != "pre":
            branch = self._norm(f"{at}attn_out_norm", branch)
        if placement == "sandwich":
            branch.add_(hidden)
        if placement == "post_twice":
            branch = self._norm(f"{at}attn_residual_norm", branch.add_(hidden))
        hidden = branch
        branch = self._norm(f"{at}mlp_norm", hidden) if before else hidden
        branch = self._mlp(at, branch, None if placement == "sandwich" else hidden)
        if placement == "pre":
            return branch
        branch = self._norm(f"{at}mlp_out_norm", branch)
        return branch.add_(hidden) if placement == "sandwich" else branch

    def _attend(
        self, layer: int, hidden: Tensor, attend: Attention, rotation: Tensor | None
    ) -> Tensor:
        config, at = self.config, f"layers.{layer}."
        queries, keys = config.heads, config.kv_heads
        fused = self.linears[f"{at}qkv"](hidden)  # [T, (H + 2K) * D]
        heads = fused.view(fused.shape[0], -1, config.head_dim)
        query, key, value = torch.split(heads, [queries, keys, keys], dim=1)  # [T, H, D], [T, K, D]
        if config.qk_norm != "none":
            query = self._norm_heads(f"{at}q_norm", query)
            key = self._norm_heads(f"{at}k_norm", key)
            if rotation is not None:
                query, key = rotate(query, rotation), rotate(key, rotation)
        elif rotation is not None:
            # Queries and keys lie side by side: one rotation turns both.
            turned = rotate(heads[:, : queries + keys], rotation)
            query, key = torch.split(turned, [queries, keys], dim=1)
        return attend(query, key, value, config.window(layer))  # [T, H * D]

    def _norm_heads(self, name: str, x: Tensor) -> Tensor:
        """Norm queries or keys, [T, heads, D], each head by itself or all of a token's together."""
        if self.config.qk_norm == "per_head":
            return self._norm(name, x)
        return self._norm(name, x.flatten(1)).view(x.shape)

    def _mlp(self, at: str, hidden: Tensor, residual: Tensor | None) -> Tensor:
        config, linears = self.config, self.linears
        if not config.gated:
            inner = linears[f"{at}up"](hidden, activation=config.activation)  # [T, I]
        else:
            first, second = linears[f"{at}gate_up"](hidden).chunk(2, dim=1)  # [T, I] each
            gate, up = (first, second) if config.gate_first else (second, first)
            inner = activate_(gate, config.activation).mul_(up)
        return linears[f"{at}down"](inner, residual=residual)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, eps = self._weights[f"{name}.weight"], self.config.norm_eps
        if self.config.norm == "layer":
            bias = self._weights.get(f"{name}.bias")
            return functional.layer_norm(x, weight.shape, weight, bias, eps)
        # In float32 inside, whatever the activations are. Gemma's weights are float32 themselves.
        return functional.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(x.dtype)

    def _rotate_by(self, positions: Tensor, max_seqlen: int) -> dict[Rope, Tensor]:
        """Cosines and sines of every kind of layer at the batch's positions, [T, 1, D]."""
        gathered: dict[Rope, Tensor] = {}
        length = 2 ** max(0, max_seqlen - 1).bit_length()
        for rope in dict.fromkeys(self.config.ropes):
            table = self._rotations.get((rope, length))
            if table is None:
                table = rotations(rope, length).to(self.device)
                self._rotations[rope, length] = table
            gathered[rope] = table[positions].unsqueeze(1)
        return gathered
