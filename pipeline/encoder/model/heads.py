"""From hidden states to rows: pooling, module files, classifiers. All of it in float32.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    R  rows: T for a token classifier, else S
    E  hidden size
    V  width of a vector: E per pooling mode, then as wide as each step makes it
    C  classes
"""

# ruff: noqa: N806 - shape suffixes

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig, Reads
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.modules import PoolingMode
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.module_steps import LAYER_NORM_EPS, apply_module, module_weights
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.pooling import Pool, Pooled, blank_empty, pool, pooled
from pipeline.errors import UsageError


class SentenceHead:
    """Hidden states → embeddings: pooling, the module files, dimensions, unit length.

    Attributes:
        reads: the tokens whose hidden states it takes.
        output_size: dimensions of a vector, or of all that stand side by side.
        pools: what is taken of each sequence, side by side.
        prompt_tokens: leading tokens of every sequence that are not pooled.
        unit: whether unit length follows at once, so that `pooled` gives it too.
        pooled: what gives the rows before the module files; a GPU may have a faster one.
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
        reads_all: bool = False,
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
            reads_all: whether another head needs the states of all tokens.

        Raises:
            CheckpointError: a module's weights are damaged.
            UsageError: more dimensions than the checkpoint has.
        """
        modules = card.modules
        body = modules.steps[:-1] if modules.normalize else modules.steps
        self._projection = weights.get("projection.weight")
        self.prompt_tokens = 0 if modules.include_prompt else prompt_tokens
        self._steps = [
            (step, module_weights(tensors, device))
            for step, tensors in zip(body, card.module_tensors, strict=False)
        ]
        self.reads: Reads = "all" if reads_all else _reads(modules.pooling, self.prompt_tokens)
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
        self.pools: tuple[Pooled, ...] = modules.pooling if self.reads == "all" else ("read",)
        bare = self._projection is None and not self._steps and not self._layer_norm
        whole = len(self.pools) == 1 and self._widths == (full,)
        self.unit = self._normalize and bare and whole
        self.pooled: Pool = pooled

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states [T, E], or [S, E] of what is read of each sequence → [S, output_size]
        float32; NaN for a sequence without tokens.
        """
        parts_SE = [
            self.pooled(hidden, batch, mode, self.prompt_tokens, self.unit) for mode in self.pools
        ]
        rows_SV = parts_SE[0] if len(parts_SE) == 1 else torch.cat(parts_SE, dim=1)
        if self.unit:
            return rows_SV
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
            rows_RE = blank_empty(rows_RE, batch)
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
        logits_S2 = functional.linear(blank_empty(hidden.float(), batch), self._rows)
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
