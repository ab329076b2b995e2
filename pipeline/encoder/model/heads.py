"""From hidden states to rows: pooling, module files, classifiers. All of it in float32.

Shapes: T tokens, S sequences, E hidden size, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.files import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.safetensors_headers import TensorInfo
from pipeline.encoder.checkpoint.sentence_modules import (
    LayerNormModule,
    Module,
    NormalizeModule,
    PoolingMode,
)
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.errors import CheckpointError, UsageError

# torch.nn.LayerNorm's default: the module file states none, and Nomic's card calls it bare.
LAYER_NORM_EPS = 1e-5


def pool(hidden: Tensor, batch: PackedBatch, mode: PoolingMode, prompt_tokens: int = 0) -> Tensor:
    """One vector per sequence, [S, E] float32; NaN for a sequence without tokens.

    Args:
        hidden: [T, E], any float dtype.
        batch: where sequences start and end.
        mode: how tokens become one vector.
        prompt_tokens: leading tokens of every sequence that do not count.
    """
    ends = batch.cu_seqlens[1:].long()
    lengths = batch.cu_seqlens.diff().long()
    # Not torch.where, which sends its numbers to a GPU: no CUDA graph can hold that.
    skipped = (lengths > prompt_tokens) * prompt_tokens
    starts = ends - lengths + skipped
    if mode in ("cls", "lasttoken"):
        index = starts if mode == "cls" else ends - 1
        # An empty sequence at either end points outside; its row is overwritten below.
        rows = hidden[index.clamp(0, hidden.shape[0] - 1)].float()
    else:
        rows = _reduce(hidden.float(), lengths, skipped if prompt_tokens else None, mode)
    return _blank_empty(rows, batch)


def _blank_empty(rows: Tensor, batch: PackedBatch) -> Tensor:
    """NaN in the row of every sequence without tokens, in place; rows [S, E]."""
    return rows.masked_fill_((batch.cu_seqlens.diff() == 0)[:, None], torch.nan)


def _reduce(hidden: Tensor, lengths: Tensor, skipped: Tensor | None, mode: PoolingMode) -> Tensor:
    """Reduce over each sequence; leading tokens are skipped without a look at their number."""
    sequences = torch.arange(lengths.shape[0], device=hidden.device)
    owner = torch.repeat_interleave(sequences, lengths, output_size=hidden.shape[0])  # [T]
    counts = lengths
    if skipped is not None or mode == "weightedmean":
        first = (lengths.cumsum(0) - lengths)[owner]
        rank = torch.arange(hidden.shape[0], device=hidden.device) - first
    if skipped is not None:
        left_out = (rank < skipped[owner])[:, None]
        hidden = hidden.masked_fill(left_out, -torch.inf if mode == "max" else 0.0)
        counts = lengths - skipped
    if mode == "max":
        return torch.segment_reduce(hidden, "max", lengths=lengths, unsafe=True)
    if mode == "weightedmean":
        weight = (rank + 1).float()[:, None]
        if skipped is not None:
            weight = weight.masked_fill(left_out, 0.0)
        return _sum(hidden * weight, owner, lengths) / _sum(weight, owner, lengths)
    divisor = counts.float()[:, None]
    if mode == "mean_sqrt_len_tokens":
        divisor = divisor.sqrt()
    return _sum(hidden, owner, lengths) / divisor


def _sum(values: Tensor, owner: Tensor, lengths: Tensor) -> Tensor:
    """Sum of each sequence's rows, [S, E], in a fixed order on every device."""
    if values.device.type == "cpu":  # fifteen times faster there than segment_reduce
        return values.new_zeros(lengths.shape[0], values.shape[1]).index_add_(0, owner, values)
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


class SentenceHead:
    """Hidden states → embeddings: pooling, the module files, dimensions, unit length."""

    def __init__(
        self,
        card: ModelCard,
        weights: Mapping[str, Tensor],
        device: torch.device,
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Load the weights of the modules.

        Args:
            card: of an embedding model.
            weights: head tensors among the encoder's own files (voyage's projection), float32.
            device: where to compute.
            dimensions: leading dimensions to keep (Matryoshka), None for all.
            normalize: unit length or not, None for what the checkpoint does.
            prompt_tokens: tokens of the prompt, left out of pooling where the checkpoint says so.

        Raises:
            CheckpointError: a module's weights are damaged.
            UsageError: more dimensions than the checkpoint has.
        """
        modules = card.modules
        body = modules.steps[:-1] if modules.normalize else modules.steps
        self._projection = weights.get("projection.weight")
        self._pooling = modules.pooling
        self._prompt_tokens = 0 if modules.include_prompt else prompt_tokens
        self._steps = [
            (step, _module_weights(tensors, device))
            for step, tensors in zip(body, card.module_tensors, strict=False)
        ]
        # What the encoder has to give: one token per sequence, unless several are pooled.
        self.reads: Reads = _reads(modules.pooling, self._prompt_tokens)
        # Nomic trained its leading dimensions after a LayerNorm: model card of v1.5.
        self._layer_norm = dimensions is not None and card.config.family == "nomic_bert"
        unit = modules.normalize or self._layer_norm
        self._normalize = unit if normalize is None else normalize
        full = card.dimensions
        if dimensions is not None and not 1 <= dimensions <= full:
            raise UsageError(f"dimensions is {dimensions}; this model's vectors have {full}")
        self.output_size = dimensions or full

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """[T, E] or [S, E] as read → [S, output_size] float32, NaN where there is no token."""
        if self.reads == "all":
            rows = torch.cat(
                [pool(hidden, batch, mode, self._prompt_tokens) for mode in self._pooling], dim=1
            )
        else:
            rows = _blank_empty(hidden.float(), batch)
        if self._projection is not None:
            rows = functional.linear(rows, self._projection)
        for step, weights in self._steps:
            rows = _apply(step, weights, rows)
        if self._layer_norm:
            rows = functional.layer_norm(rows, rows.shape[1:], eps=LAYER_NORM_EPS)
        rows = rows[:, : self.output_size]
        return functional.normalize(rows, dim=1) if self._normalize else rows


def _reads(pooling: tuple[PoolingMode, ...], prompt_tokens: int) -> Reads:
    if pooling == ("cls",) and not prompt_tokens:
        return "first"
    return "last" if pooling == ("lasttoken",) else "all"


def _module_weights(tensors: Mapping[str, TensorInfo], device: torch.device) -> dict[str, Tensor]:
    """Tensors of one module, float32."""
    found: dict[str, Tensor] = {}
    for name, info in tensors.items():
        try:
            with safe_open(info.file, framework="pt") as handle:
                found[name] = handle.get_tensor(name).to(device, torch.float32)
        except SafetensorError as error:
            raise CheckpointError(
                f"{info.file} is damaged: {error}", hint=DOWNLOAD_AGAIN
            ) from error
    return found


def _apply(step: Module, weights: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    if isinstance(step, NormalizeModule):
        return functional.normalize(rows, dim=1)
    if isinstance(step, LayerNormModule):
        return functional.layer_norm(
            rows, (step.dimension,), weights["norm.weight"], weights["norm.bias"], LAYER_NORM_EPS
        )
    out = functional.linear(rows, weights["linear.weight"], weights.get("linear.bias"))
    activated: Tensor = getattr(torch.nn, step.activation)()(out)
    if not step.residual:
        return activated
    same = step.in_features == step.out_features
    return activated + (rows if same else functional.linear(rows, weights["residual.weight"]))


class ClassifierHead:
    """Hidden states → logits of sequences or of tokens."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Tensor]) -> None:
        """Keep the head's tensors, float32: head_dense, head_norm and classifier."""
        self._config = config
        self._weights = weights
        self._per_token = config.head in ("tokens", "prediction_tokens")
        one = not self._per_token and config.head_pooling == "cls"
        self.reads: Reads = "first" if one else "all"
        self.output_size = len(config.labels)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """What is read → logits [T, C] of tokens, [S, C] of sequences, [S] with a single class."""
        rows = hidden.float()
        if self.reads == "first":
            rows = _blank_empty(rows, batch)
        elif not self._per_token:
            rows = pool(hidden, batch, self._config.head_pooling)
        if self._config.head != "tokens":
            rows = activate_(self._linear("head_dense", rows), self._config.head_activation)
        if self._config.head in ("prediction", "prediction_tokens"):
            weight, bias = self._weights["head_norm.weight"], self._weights.get("head_norm.bias")
            rows = functional.layer_norm(rows, weight.shape, weight, bias, self._config.norm_eps)
        logits = self._linear("classifier", rows)
        return logits[:, 0] if self.output_size == 1 and not self._per_token else logits

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(
            x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        )


class LogitsHead:
    """For a model that ends in its own classifier: its logits, in float32."""

    def __init__(self, config: EncoderConfig, *, per_token: bool) -> None:
        self._per_token = per_token
        self.reads: Reads = "all"
        self.output_size = len(config.labels)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Logits as they come: [T, C] of tokens, [S, C] of sequences, [S] with a single class."""
        single = self.output_size == 1 and not self._per_token
        return hidden[:, 0].float() if single else hidden.float()
