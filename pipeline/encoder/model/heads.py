"""From hidden states to rows: pooling, module files, classifiers. All of it in float32.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    R  rows: T for a token classifier, else S
    E  hidden size
    V  width of a vector: E per pooling mode, then as wide as each step makes it
    C  classes
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.pooling_config import PoolingMode
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.module_steps import LAYER_NORM_EPS, apply_module, module_weights
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.errors import UsageError


def pool(
    hidden_TE: Tensor, batch: PackedBatch, mode: PoolingMode, prompt_tokens: int = 0
) -> Tensor:
    """One vector per sequence, [S, E] float32; NaN for a sequence without tokens.

    Args:
        hidden_TE: hidden states of any float dtype.
        batch: where sequences start and end.
        mode: how tokens become one vector.
        prompt_tokens: leading tokens of every sequence that do not count.
    """
    ends_S = batch.cu_seqlens[1:].long()
    lengths_S = batch.cu_seqlens.diff().long()
    # Not torch.where, which copies its numbers to a GPU: a CUDA graph cannot hold that.
    skipped_S = (lengths_S > prompt_tokens) * prompt_tokens
    starts_S = ends_S - lengths_S + skipped_S
    if mode in ("cls", "lasttoken"):
        index_S = starts_S if mode == "cls" else ends_S - 1
        # An empty sequence at either end points outside; its row is overwritten below.
        rows_SE = hidden_TE[index_S.clamp(0, hidden_TE.shape[0] - 1)].float()
    else:
        rows_SE = _reduce(hidden_TE.float(), lengths_S, skipped_S if prompt_tokens else None, mode)
    return _blank_empty(rows_SE, batch)


def _blank_empty(rows_SE: Tensor, batch: PackedBatch) -> Tensor:
    """Set the row of every sequence without tokens to NaN, in place."""
    return rows_SE.masked_fill_((batch.cu_seqlens.diff() == 0)[:, None], torch.nan)


def _reduce(
    hidden_TE: Tensor, lengths_S: Tensor, skipped_S: Tensor | None, mode: PoolingMode
) -> Tensor:
    """Reduce every sequence to one row, [S, E]; never reads a number back from the device."""
    sequences_S = torch.arange(lengths_S.shape[0], device=hidden_TE.device)
    owner_T = torch.repeat_interleave(sequences_S, lengths_S, output_size=hidden_TE.shape[0])
    counts_S = lengths_S
    if skipped_S is not None or mode == "weightedmean":
        first_T = (lengths_S.cumsum(0) - lengths_S)[owner_T]
        rank_T = torch.arange(hidden_TE.shape[0], device=hidden_TE.device) - first_T
    if skipped_S is not None:
        omitted_T1 = (rank_T < skipped_S[owner_T])[:, None]
        hidden_TE = hidden_TE.masked_fill(omitted_T1, -torch.inf if mode == "max" else 0.0)
        counts_S = lengths_S - skipped_S
    if mode == "max":
        return torch.segment_reduce(hidden_TE, "max", lengths=lengths_S, unsafe=True)
    if mode == "weightedmean":
        weight_T1 = (rank_T + 1).float()[:, None]
        if skipped_S is not None:
            weight_T1 = weight_T1.masked_fill(omitted_T1, 0.0)
        weighted_SE = _sum(hidden_TE * weight_T1, owner_T, lengths_S)
        return weighted_SE / _sum(weight_T1, owner_T, lengths_S)
    divisor_S1 = counts_S.float()[:, None]
    if mode == "mean_sqrt_len_tokens":
        divisor_S1 = divisor_S1.sqrt()
    return _sum(hidden_TE, owner_T, lengths_S) / divisor_S1


def _sum(values_TE: Tensor, owner_T: Tensor, lengths_S: Tensor) -> Tensor:
    """Sum of each sequence's rows, [S, E], in a fixed order on every device."""
    if values_TE.device.type == "cpu":  # fifteen times faster there than segment_reduce
        sums_SE = values_TE.new_zeros(lengths_S.shape[0], values_TE.shape[1])
        return sums_SE.index_add_(0, owner_T, values_TE)
    return torch.segment_reduce(values_TE, "sum", lengths=lengths_S, unsafe=True)


class SentenceHead:
    """Hidden states → embeddings: pooling, the module files, dimensions, unit length.

    Attributes:
        reads: the tokens whose hidden states it takes.
        output_size: dimensions of a vector, or of all that stand side by side.
    """

    def __init__(
        self,
        card: ModelCard,
        weights: Mapping[str, Tensor],
        device: torch.device,
        *,
        dimensions: tuple[int, ...] = (),
        normalize: bool | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Load the weights of the modules.

        Args:
            card: of an embedding model.
            weights: head tensors among the encoder's own files (voyage's projection), float32.
            device: where to compute.
            dimensions: leading dimensions to keep (Matryoshka), () for all; of several numbers,
                the vectors stand side by side.
            normalize: whether vectors have unit length, None for what the checkpoint does.
            prompt_tokens: tokens of the prompt; omitted from pooling where the checkpoint says so.

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
            (step, module_weights(tensors, device))
            for step, tensors in zip(body, card.module_tensors, strict=False)
        ]
        self.reads: Reads = _reads(modules.pooling, self._prompt_tokens)
        if card.config.static:
            self.reads = "mean"
        self._layer_norm = card.has_leading_norm(dimensions)
        unit = card.gives_unit_length(dimensions)
        self._normalize = unit if normalize is None else normalize
        full = card.dimensions
        if odd := [width for width in dimensions if not 1 <= width <= full]:
            raise UsageError(f"dimensions is {odd[0]}; this model's vectors have {full}")
        self._widths = dimensions or (full,)
        self.output_size = sum(self._widths)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states [T, E], or [S, E] of what is read of each sequence → [S, output_size]
        float32; NaN for a sequence without tokens.
        """
        if self.reads == "all":
            rows_SV = torch.cat(
                [pool(hidden, batch, mode, self._prompt_tokens) for mode in self._pooling], dim=1
            )
        else:
            rows_SV = _blank_empty(hidden.float(), batch)
        if self._projection is not None:
            rows_SV = functional.linear(rows_SV, self._projection)
        for step, weights in self._steps:
            rows_SV = apply_module(step, weights, rows_SV)
        if self._layer_norm:
            rows_SV = functional.layer_norm(rows_SV, rows_SV.shape[1:], eps=LAYER_NORM_EPS)
        leading = [rows_SV[:, :width] for width in self._widths]
        if self._normalize:
            leading = [functional.normalize(rows_SV, dim=1) for rows_SV in leading]
        return leading[0] if len(leading) == 1 else torch.cat(leading, dim=1)


def _reads(pooling: tuple[PoolingMode, ...], prompt_tokens: int) -> Reads:
    """One token per sequence suffices unless several are pooled."""
    if pooling == ("cls",) and not prompt_tokens:
        return "first"
    return "last" if pooling == ("lasttoken",) else "all"


class ClassifierHead:
    """Hidden states → logits of sequences or of tokens.

    Attributes:
        reads: the tokens whose hidden states it takes.
        output_size: number of classes.
    """

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Tensor]) -> None:
        """Keep the head's tensors, float32: head_dense, head_norm and classifier."""
        self._config = config
        self._weights = weights
        self._per_token = config.head in ("tokens", "prediction_tokens")
        one: dict[str, Reads] = {"cls": "first", "lasttoken": "last"}
        self.reads: Reads = "all" if self._per_token else one.get(config.head_pooling, "all")
        self.output_size = len(config.labels)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states [T, E], or [S, E] of the token read of each sequence → logits: [T, C] of
        tokens, [S, C] of sequences, [S] if there is a single class.
        """
        config = self._config
        rows_RE = hidden.float()
        if self.reads != "all":
            rows_RE = _blank_empty(rows_RE, batch)
        elif not self._per_token:
            rows_RE = pool(hidden, batch, config.head_pooling)
        if config.head not in ("tokens", "score"):
            rows_RE = activate_(self._linear("head_dense", rows_RE), config.head_activation)
        if config.head in ("prediction", "prediction_tokens"):
            weight, bias = self._weights["head_norm.weight"], self._weights.get("head_norm.bias")
            rows_RE = functional.layer_norm(rows_RE, weight.shape, weight, bias, config.norm_eps)
        logits_RC = self._linear("classifier", rows_RE)
        single = self.output_size == 1 and not self._per_token
        return logits_RC[:, 0] if single else logits_RC

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(
            x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        )


class TokenLogitHead:
    """Hidden states → the logit of one token of a language model, or of one minus another.

    Attributes:
        reads: the last token, whose logits are those of the token that would follow.
        output_size: 1.
    """

    reads: Reads = "last"
    output_size = 1

    def __init__(self, rows: Tensor) -> None:
        """Keep the rows of the tokens in the matrix of logits, [1 or 2, E] float32."""
        self._rows = rows

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states [S, E] of each last token → scores [S]; NaN for a sequence without
        tokens.
        """
        logits_S2 = functional.linear(_blank_empty(hidden.float(), batch), self._rows)
        return logits_S2[:, 0] - logits_S2[:, 1] if logits_S2.shape[1] == 2 else logits_S2[:, 0]


class LogitsHead:
    """For a model that ends in its own classifier: its logits, in float32.

    Attributes:
        reads: every token.
        output_size: number of classes.
    """

    def __init__(self, config: EncoderConfig, *, per_token: bool) -> None:
        self._per_token = per_token
        self.reads: Reads = "all"
        self.output_size = len(config.labels)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Logits [R, C] as the model gave them: [T, C] of tokens, [S, C] of sequences, [S] if
        there is a single class.
        """
        single = self.output_size == 1 and not self._per_token
        return hidden[:, 0].float() if single else hidden.float()
