"""The forward pass: packed token ids to hidden states, one readable function for every family.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together: nothing is padded and there is no batch axis
    S  sequences
    R  rows still computed: T, or S once the last layer has attended and the head reads one token
       of each sequence
    E  hidden size
    H  query heads; K  key heads; N  heads of any kind; D  head size
    F  all query heads side by side, H * D
    I  intermediate size of the MLP
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads, Rope
from pipeline.encoder.checkpoint.safetensors_headers import MatchedTensors, TensorInfo
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.attention import (
    GroupedAttention,
    PositionBias,
    VarlenAttention,
    group_equal_lengths,
    varlen_supported,
)
from pipeline.encoder.model.experts import take_experts
from pipeline.encoder.model.linear import Linear, make_linear
from pipeline.encoder.model.packed_batch import PackedBatch, read_tokens
from pipeline.encoder.model.positions import ranks, rotate, rotations, skip_padding
from pipeline.encoder.model.varlen_kernels import Kernel, choose_kernel

Weights = Mapping[str, Tensor]
# bei-jobs' own names of the matrices that tokens are multiplied with.
_PRODUCTS = ("qkv", "attn_out", "up", "gate_up", "down")
# query [T, H, D], key and value [T, K, D], window → [T, F]
Attention = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]


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


class Encoder:
    """Weights and settings of one encoder on one device.

    Attributes:
        config: sizes and settings.
        reads: the tokens whose hidden states the head reads.
        device: where it computes.
        dtype: of weights and activations.
        linears: the products by name, `layers.3.qkv`.
    """

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
        """Take over the weights.

        Args:
            config: sizes and settings.
            weights: by bei-jobs' own names, on `device`, in `dtype`; float32 where they are
                quantized.
            device: where to compute.
            dtype: of weights and activations.
            quantize: multiply 8-bit integers; everything else is computed in `dtype`.
            reads: what the head reads; if one token per sequence, the last layer computes nothing
                after its attention for the others.
        """
        self.config = config
        self.reads = reads
        self.device = device
        self.dtype = dtype
        self._weights = dict(weights)
        self.linears = self._take_linears(quantize)
        self._experts = {
            f"layers.{layer}.": take_experts(self._weights, f"layers.{layer}.", config, quantize)
            for layer in range(config.layers)
            if config.has_experts(layer)
        }
        self._weights = {name: tensor.to(dtype) for name, tensor in self._weights.items()}
        if config.norm == "rms_plus_one":
            for name in [n for n in self._weights if n.endswith("norm.weight")]:
                self._weights[name] = 1.0 + self._weights[name].float()
        self._kernel: Kernel | None = None
        if varlen_supported(config, device, dtype):
            self._kernel = choose_kernel(config, device, dtype)
        self._bias: PositionBias | None = None
        if config.alibi or config.relative_buckets:
            self._bias = PositionBias(config, weights.get("relative_bias.weight"), device)
        # By length, and none is ever replaced: a CUDA graph reads the one it was captured with.
        self._rotations: dict[tuple[Rope, int], Tensor] = {}

    def _take_linears(self, quantize: bool) -> dict[str, Linear]:
        """Linears by name; their weights are kept only in the layout of the product."""
        linears: dict[str, Linear] = {}
        for name in [n for n in self._weights if n.endswith(".weight")]:
            linear = name.removesuffix(".weight")
            if linear.rpartition(".")[2] in _PRODUCTS:
                weight, bias = self._weights.pop(name), self._weights.pop(f"{linear}.bias", None)
                linears[linear] = make_linear(weight, bias, quantize=quantize)
        return linears

    @property
    def capturable(self) -> bool:
        """Whether a forward pass never waits for the device, so that a CUDA graph can hold it."""
        # How many tokens each expert gets is read back from the device.
        return self._kernel is not None and not self._experts

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Hidden states after the last layer in the encoder's dtype: [T, E], or [S, E] where the
        head reads one token of each sequence.
        """
        config = self.config
        attention = self._attention(batch)
        positions_T = ranks(batch)
        rotations_T1D = self._rotations_at(positions_T, batch.max_seqlen)
        hidden_RE = self._embed(batch, positions_T)
        for layer in range(config.layers):
            rotation_T1D = rotations_T1D[config.ropes[layer]] if config.ropes else None
            read_S = read_tokens(batch, self.reads) if layer == config.layers - 1 else None
            hidden_RE = self._layer(layer, hidden_RE, attention, rotation_T1D, read_S)
        return self._norm("final_norm", hidden_RE) if config.final_norm else hidden_RE

    def _attention(self, batch: PackedBatch) -> Attention:
        if self._kernel is not None:
            return VarlenAttention(self.config, batch.cu_seqlens, batch.max_seqlen, self._kernel)
        return GroupedAttention(self.config, group_equal_lengths(batch.offsets), self._bias)

    def _embed(self, batch: PackedBatch, positions_T: Tensor) -> Tensor:
        config, weights = self.config, self._weights
        hidden_TE = functional.embedding(batch.ids, weights["tokens.weight"])
        if config.embedding_scale != 1.0:
            hidden_TE.mul_(config.embedding_scale)
        if config.position_table:
            table_rows_T = positions_T
            if config.position_padding is not None:
                table_rows_T = skip_padding(batch, config.position_padding)
            hidden_TE.add_(functional.embedding(table_rows_T, weights["positions.weight"]))
        if config.token_types and batch.type_ids is not None and config.token_types > 1:
            hidden_TE.add_(functional.embedding(batch.type_ids, weights["types.weight"]))
        elif config.token_types:
            hidden_TE.add_(weights["types.weight"][0])
        return self._norm("embed_norm", hidden_TE) if config.embedding_norm else hidden_TE

    def _layer(
        self,
        layer: int,
        hidden_RE: Tensor,
        attention: Attention,
        rotation_T1D: Tensor | None,
        read_S: Tensor | None,
    ) -> Tensor:
        """One layer: the same two branches, with norms where the family has them.

        Every token attends; after that, only the tokens `read_S` are computed where it is given.
        """
        prefix = f"layers.{layer}."
        placement = self.config.norm_placement
        before = placement in ("pre", "sandwich")
        # ModernBERT's first layer has no norm before attention: its input is normed already.
        normed_input = before and f"{prefix}attn_norm.weight" in self._weights
        branch_RE = self._norm(f"{prefix}attn_norm", hidden_RE) if normed_input else hidden_RE
        attended_RF = self._attend(layer, branch_RE, attention, rotation_T1D)
        if read_S is not None:  # R is T above and S below
            attended_RF, hidden_RE = attended_RF[read_S], hidden_RE[read_S]
        # A branch's last product adds the residual too, unless a norm stands between the two.
        residual_RE = None if placement == "sandwich" else hidden_RE
        branch_RE = self.linears[f"{prefix}attn_out"](attended_RF, residual=residual_RE)
        if placement != "pre":
            branch_RE = self._norm(f"{prefix}attn_out_norm", branch_RE)
        if placement == "sandwich":
            branch_RE.add_(hidden_RE)
        if placement == "post_twice":
            branch_RE = self._norm(f"{prefix}attn_residual_norm", branch_RE.add_(hidden_RE))
        hidden_RE = branch_RE
        branch_RE = self._norm(f"{prefix}mlp_norm", hidden_RE) if before else hidden_RE
        branch_RE = self._mlp(prefix, branch_RE, None if placement == "sandwich" else hidden_RE)
        if placement == "pre":
            return branch_RE
        branch_RE = self._norm(f"{prefix}mlp_out_norm", branch_RE)
        return branch_RE.add_(hidden_RE) if placement == "sandwich" else branch_RE

    def _attend(
        self, layer: int, hidden_TE: Tensor, attention: Attention, rotation_T1D: Tensor | None
    ) -> Tensor:
        """Attention of one layer before its output projection, [T, F]."""
        config, prefix = self.config, f"layers.{layer}."
        queries, keys = config.heads, config.kv_heads
        fused = self.linears[f"{prefix}qkv"](hidden_TE)  # [T, (H + 2K) * D]
        heads_TND = fused.view(fused.shape[0], -1, config.head_dim)
        query_THD, key_TKD, value_TKD = torch.split(heads_TND, [queries, keys, keys], dim=1)
        if config.qk_norm != "none":
            query_THD = self._norm_heads(f"{prefix}q_norm", query_THD)
            key_TKD = self._norm_heads(f"{prefix}k_norm", key_TKD)
            if rotation_T1D is not None:
                query_THD = rotate(query_THD, rotation_T1D)
                key_TKD = rotate(key_TKD, rotation_T1D)
        elif rotation_T1D is not None:
            # Queries and keys are side by side: one rotation turns both.
            turned_TND = rotate(heads_TND[:, : queries + keys], rotation_T1D)
            query_THD, key_TKD = torch.split(turned_TND, [queries, keys], dim=1)
        return attention(query_THD, key_TKD, value_TKD, config.window(layer))

    def _norm_heads(self, name: str, heads_TND: Tensor) -> Tensor:
        """Norm queries or keys, each head by itself or all heads of a token together."""
        if self.config.qk_norm == "per_head":
            return self._norm(name, heads_TND)
        return self._norm(name, heads_TND.flatten(1)).view(heads_TND.shape)

    def _mlp(self, prefix: str, hidden_RE: Tensor, residual_RE: Tensor | None) -> Tensor:
        config, linears = self.config, self.linears
        if (experts := self._experts.get(prefix)) is not None:
            return experts(hidden_RE, residual_RE)
        if not config.gated:
            inner_RI = linears[f"{prefix}up"](hidden_RE, activation=config.activation)
        else:
            first_RI, second_RI = linears[f"{prefix}gate_up"](hidden_RE).chunk(2, dim=1)
            gate_RI, up_RI = (first_RI, second_RI) if config.gate_first else (second_RI, first_RI)
            inner_RI = activate_(gate_RI, config.activation).mul_(up_RI)
        return linears[f"{prefix}down"](inner_RI, residual=residual_RE)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Norm the last axis."""
        weight, eps = self._weights[f"{name}.weight"], self.config.norm_eps
        if self.config.norm == "layer":
            bias = self._weights.get(f"{name}.bias")
            return functional.layer_norm(x, weight.shape, weight, bias, eps)
        # rms_norm is float32 inside whatever the activations are; Gemma's weights are float32 too.
        return functional.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(x.dtype)

    def _rotations_at(self, positions_T: Tensor, max_seqlen: int) -> dict[Rope, Tensor]:
        """Cosines and sines at the batch's positions for every rotary setting, [T, 1, D]."""
        gathered_T1D: dict[Rope, Tensor] = {}
        length = 2 ** max(0, max_seqlen - 1).bit_length()
        for rope in dict.fromkeys(self.config.ropes):
            table = self._rotations.get((rope, length))  # [length, D]
            if table is None:
                table = rotations(rope, length).to(self.device)
                self._rotations[rope, length] = table
            gathered_T1D[rope] = table[positions_T].unsqueeze(1)
        return gathered_T1D
