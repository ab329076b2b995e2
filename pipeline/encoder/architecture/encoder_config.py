"""The settings in which published families of encoders differ, and nothing else.

Every family is a value of `EncoderConfig`; `model/encoder.py` has one forward pass that reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Norm = Literal["layer", "rms", "rms_plus_one"]
NormPlacement = Literal["post", "post_twice", "pre", "sandwich"]
Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
QueryKeyNorm = Literal["none", "per_head", "full_width"]
# The tokens whose hidden states are needed once the last layer has attended: all, or the first or
# last of each sequence; or the mean of each sequence, which a table of token vectors gives itself.
Reads = Literal["all", "first", "last", "mean"]
Head = Literal[
    "none", "pooler", "dense", "prediction", "tokens", "prediction_tokens", "score", "lm_head"
]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions of one layer: inv_freq[i] = theta^(-2i/dim) / factor, i < dim/2.

    `factor` above 1 is linear interpolation. With `original_length` set, `factor` is applied as
    Llama 3.1 does: only to wavelengths beyond original_length / low_freq_factor, not at all below
    original_length / high_freq_factor, and blended in between.
    """

    theta: float
    dim: int
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: MLPs side by side, of which a router picks some for every token."""

    count: int
    active: int  # experts per token, weighted by the router's softmax over all of them
    every: int  # the second of this many layers has experts, the others an ordinary MLP


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """One encoder: its sizes, and the settings in which families differ.

    Sizes count elements. `windows` holds, per layer, the largest distance |query - key| that
    attends, inclusive; None for a layer without a window.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    # Where a layer normalises. post: norm(x + f(x)), BERT; post_twice: BERT with a second norm of
    # the residual after attention, jina-code; pre: x + f(norm(x)); sandwich: x + norm(f(norm(x))).
    norm: Norm
    norm_eps: float
    norm_placement: NormPlacement
    embedding_norm: bool
    final_norm: bool
    # MLP
    activation: Activation
    gated: bool
    gate_first: bool = True  # which half of a fused gate_up projection is activated
    experts: Experts | None = None  # in place of the MLP of some layers
    # Positions
    position_table: int = 0  # rows of a learned table, 0 for none
    position_padding: int | None = None  # RoBERTa: positions start after this id and skip it
    ropes: tuple[Rope, ...] = ()  # one per layer, or none
    alibi: bool = False
    relative_buckets: int = 0  # MPNet and T5: buckets of the learned relative bias
    token_types: int = 0  # rows of the token type table, 0 for none
    # Attention
    causal: bool = False
    windows: tuple[int | None, ...] = ()  # one per layer, or none
    qk_norm: QueryKeyNorm = "none"
    attention_scale: float = 0.0  # 0 for head_dim ** -0.5
    embedding_scale: float = 1.0
    # What follows the encoder
    projection: int = 0  # voyage: width of a linear layer over the hidden states, 0 for none
    head: Head = "none"
    head_activation: Activation | Literal["tanh"] = "tanh"
    head_pooling: Literal["cls", "mean", "lasttoken"] = "cls"
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    regression: bool = False  # the logits are values on a scale
    # Limits of the checkpoint or of a number format
    half: Literal["float16", "bfloat16"] = "float16"  # the 16-bit format that loses least
    float16_overflows: bool = False  # activations leave its range on ordinary text
    max_length: int | None = None  # tokens; None if the config sets no limit

    @property
    def scale(self) -> float:
        """Factor of the attention logits."""
        return self.attention_scale or self.head_dim**-0.5

    def window(self, layer: int) -> int | None:
        """Largest distance that attends in a layer, None for no window."""
        return self.windows[layer] if self.windows else None

    @property
    def static(self) -> bool:
        """Whether there is no encoder: a sequence's vector is the mean of a table's rows."""
        return self.family == "static"

    @property
    def foreign(self) -> bool:
        """Whether transformers computes the model, and not `model/encoder.py`."""
        return self.family.startswith("transformers/")

    def has_experts(self, layer: int) -> bool:
        """Whether a mixture of experts stands in the place of a layer's MLP."""
        return self.experts is not None and layer % self.experts.every == 1

    @property
    def output_size(self) -> int:
        """Width of a pooled row before module files: the projection's, or else the hidden size."""
        return self.projection or self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The settings; those that came after 0.1.0 only where they are set: keys are frozen."""
        later = {"experts"}
        settings = asdict(self).items()
        return {k: _as_json(v) for k, v in settings if k not in later or v is not None}


def _as_json(value: Any) -> Any:
    """Tuples as lists, so that a spec equals its copy that was written and read back."""
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value
