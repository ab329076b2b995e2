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

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads, Rope
from pipeline.encoder.model.attention import (
    GroupedAttention,
    PositionBias,
    VarlenAttention,
    group_equal_lengths,
    varlen_supported,
)
from pipeline.encoder.model.experts import ExpertMlp, take_experts
from pipeline.encoder.model.kernels import PLAIN, Norm
from pipeline.encoder.model.linear import Linear, make_linear
from pipeline.encoder.model.packed_batch import PackedBatch, read_tokens
from pipeline.encoder.model.positions import ranks, rotations, skip_padding
from pipeline.encoder.model.varlen_kernels import Kernel, choose_kernel

Weights = Mapping[str, Tensor]
# bei-jobs' own names of the matrices that tokens are multiplied with.
_PRODUCTS = ("qkv", "attn_out", "up", "gate_up", "down")
# A last product of a branch: x, and what is added to it → [R, E]
Product = Linear | ExpertMlp
# query [T, H, D], key and value [T, K, D], window → [T, F]
Attention = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]


class Encoder:
    """Weights and settings of one encoder on one device.

    Attributes:
        config: sizes and settings.
        reads: the tokens whose hidden states the head reads.
        device: where it computes.
        dtype: of weights and activations.
        linears: the products by name, `layers.3.qkv`.
        norms: by name, `layers.3.mlp_norm`.
        kernels: what stands around the products; a GPU may have faster ones, see `choose_fused`.
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
            weights: by bei-jobs' own names, in `dtype` on `device`.
            device: where to compute.
            dtype: of weights and activations.
            quantize: multiply 8-bit integers; everything else stays float32.
            reads: what the head reads; if one token per sequence, the last layer computes nothing
                after its attention for the others.
        """
        # Each head by itself before its rotation, or all of them and no rotation.
        assert config.qk_norm == "none" or (config.qk_norm == "per_head") == bool(config.ropes)
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
        self.norms = self._take_norms()
        self.kernels = PLAIN
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

    def _take_norms(self) -> dict[str, Norm]:
        """Norms by name."""
        norms: dict[str, Norm] = {}
        for key in [n for n in self._weights if n.endswith("norm.weight")]:
            name, weight = key.removesuffix(".weight"), self._weights.pop(key)
            if self.config.norm == "rms_plus_one":
                weight = 1.0 + weight.float()
            bias = self._weights.pop(f"{name}.bias", None)
            norms[name] = Norm(weight, bias, self.config.norm_eps, self.config.norm == "layer")
        return norms

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
        # ModernBERT's first layer has no norm before attention: its input is normed already.
        branch_RE = self._norm("layers.0.attn_norm", hidden_RE)
        for layer in range(config.layers):
            rotation_T1D = rotations_T1D[config.ropes[layer]] if config.ropes else None
            read_S = read_tokens(batch, self.reads) if layer == config.layers - 1 else None
            hidden_RE, branch_RE = self._layer(
                layer, hidden_RE, branch_RE, attention, rotation_T1D, read_S
            )
        return branch_RE

    def _attention(self, batch: PackedBatch) -> Attention:
        seen_T = batch.attention_mask  # no kernel of a GPU takes one
        if self._kernel is not None and seen_T is None:
            return VarlenAttention(self.config, batch.cu_seqlens, batch.max_seqlen, self._kernel)
        return GroupedAttention(self.config, group_equal_lengths(batch.offsets), self._bias, seen_T)

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
        return self._norm("embed_norm", hidden_TE)

    def _layer(
        self,
        layer: int,
        hidden_RE: Tensor,
        branch_RE: Tensor,
        attention: Attention,
        rotation_T1D: Tensor | None,
        read_S: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One layer: the same two branches, with norms where the family has them.

        Every token attends; after that, only the tokens `read_S` are computed where it is given.

        Returns:
            The hidden states, and what the next branch reads: their norm where norms stand before
            branches (that of the next layer, or the final one), else they themselves.
        """
        prefix, last = f"layers.{layer}.", layer == self.config.layers - 1
        attended_RF = self._attend(layer, branch_RE, attention, rotation_T1D)
        if read_S is not None:  # R is T above and S below
            attended_RF, hidden_RE = attended_RF[read_S], hidden_RE[read_S]
        following = f"{prefix}mlp_norm"
        hidden_RE, branch_RE = self._join(
            self.linears[f"{prefix}attn_out"], attended_RF, hidden_RE, f"{prefix}attn", following
        )
        following = "final_norm" if last else f"layers.{layer + 1}.attn_norm"
        product, inner = self._mlp(prefix, branch_RE)
        return self._join(product, inner, hidden_RE, f"{prefix}mlp", following)

    def _join(
        self, product: Product, x: Tensor, hidden_RE: Tensor, branch: str, following: str
    ) -> tuple[Tensor, Tensor]:
        """The hidden states with a branch that ends in a product, and what the next one reads."""
        placement, own = self.config.norm_placement, f"{branch}_out_norm"
        if placement == "pre":
            return self._add_norm(product, x, hidden_RE, following)
        if placement == "sandwich":
            hidden_RE = self.kernels.norm_add(product(x), hidden_RE, self.norms[own])
            return hidden_RE, self._norm(following, hidden_RE)
        _, joined_RE = self._add_norm(product, x, hidden_RE, own)
        if (twice := self.norms.get(f"{branch}_residual_norm")) is not None:
            _, joined_RE = self.kernels.add_norm(joined_RE, hidden_RE, twice)
        return joined_RE, joined_RE

    def _add_norm(
        self, product: Product, x: Tensor, residual_RE: Tensor, name: str
    ) -> tuple[Tensor, Tensor]:
        """The sum of a product and the residual, and its norm."""
        if self.kernels.add_norm is PLAIN.add_norm or name not in self.norms:
            # The product may add it in a kernel of its own.
            sum_RE = product(x, residual=residual_RE)
            return sum_RE, self._norm(name, sum_RE)
        return self.kernels.add_norm(product(x), residual_RE, self.norms[name])

    def _attend(
        self, layer: int, hidden_TE: Tensor, attention: Attention, rotation_T1D: Tensor | None
    ) -> Tensor:
        """Attention of one layer before its output projection, [T, F]."""
        config, prefix = self.config, f"layers.{layer}."
        queries, keys = config.heads, config.kv_heads
        fused = self.linears[f"{prefix}qkv"](hidden_TE)  # [T, (H + 2K) * D]
        heads_TND = fused.view(fused.shape[0], -1, config.head_dim)
        query_THD, key_TKD, value_TKD = torch.split(heads_TND, [queries, keys, keys], dim=1)
        norms = None
        if config.qk_norm == "per_head":
            norms = self.norms[f"{prefix}q_norm"], self.norms[f"{prefix}k_norm"]
        elif config.qk_norm == "full_width":
            query_THD = self._norm_together(f"{prefix}q_norm", query_THD)
            key_TKD = self._norm_together(f"{prefix}k_norm", key_TKD)
        if rotation_T1D is not None:
            turned_TND = heads_TND[:, : queries + keys]
            query_THD, key_TKD = self.kernels.rotate_heads(turned_TND, queries, rotation_T1D, norms)
        return attention(query_THD, key_TKD, value_TKD, config.window(layer))

    def _norm_together(self, name: str, heads_TND: Tensor) -> Tensor:
        """Norm queries or keys, all heads of a token together."""
        return self._norm(name, heads_TND.flatten(1)).view(heads_TND.shape)

    def _mlp(self, prefix: str, hidden_RE: Tensor) -> tuple[Product, Tensor]:
        """The last product of an MLP, and what it multiplies."""
        config, linears = self.config, self.linears
        if (experts := self._experts.get(prefix)) is not None:
            return experts, hidden_RE
        if config.gated:
            gate_up_RI = linears[f"{prefix}gate_up"](hidden_RE)
            inner_RI = self.kernels.gate(gate_up_RI, config.activation, config.gate_first)
        else:
            inner_RI = linears[f"{prefix}up"](hidden_RE, activation=config.activation)
        return linears[f"{prefix}down"], inner_RI

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """The norm with a name, of the last axis; `x` itself where the family has none there."""
        norm = self.norms.get(name)
        return x if norm is None else self.kernels.norm(x, norm)

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
