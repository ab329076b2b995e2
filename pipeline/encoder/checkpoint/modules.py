"""What the module files of a checkpoint say, whatever their layout: the values to compute by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A linear layer over the pooled vector; its weights are in `folder` as safetensors."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str  # a class name of torch.nn
    residual: bool
    activation_stated: bool = True  # in its config, which otherwise means Tanh


@dataclass(frozen=True, slots=True)
class LayerNormModule:
    """A LayerNorm over the pooled vector."""

    folder: str
    dimension: int


@dataclass(frozen=True, slots=True)
class NormalizeModule:
    """Division by the Euclidean length."""


@dataclass(frozen=True, slots=True)
class TruncateModule:
    """The leading dimensions of a vector, which keeps its length: `truncate_dim`."""

    dimensions: int


Module = DenseModule | LayerNormModule | NormalizeModule | TruncateModule


@dataclass(frozen=True, slots=True)
class SparseModule:
    """How a SparseEncoder weighs the terms of a text."""

    table: bool = False  # by a table of weights, without an encoder
    pooling: str = "max"  # of the logits of a text's tokens: max or sum
    activation: str = "relu"  # before the logarithm: relu or log1p_relu


@dataclass(frozen=True, slots=True)
class Expansion:
    """Tokens that fill a short query up: ColBERT's query augmentation."""

    length: int  # of a query with them
    attended: bool = False  # whether the query's own tokens see them
    token: str = ""  # "": the tokenizer's mask, else its end token
    fixed: bool = True  # whether a query never has more tokens


@dataclass(frozen=True, slots=True)
class TextReading:
    """How texts of a kind become vectors of their tokens."""

    length: int | None = None  # the most tokens, None for the model's limit
    skipped: tuple[str, ...] = ()  # tokens that have no vector
    expansion: Expansion | None = None
    skips_words: bool = False  # whether `skipped` are words, of which the first token is meant


@dataclass(frozen=True, slots=True)
class MultiModule:
    """How queries and documents become vectors of their tokens."""

    query: TextReading
    document: TextReading
    # What stands before texts as one token, where the vocabulary has it: [Q], [unused0]
    markers: tuple[str, ...] = ()
    projection: str = ""  # the tensor of the linear layer among those of the encoder: ColBERT's own


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """How a checkpoint turns the vectors of tokens into one."""

    transformer: str = ""  # folder of the encoder, relative to the checkpoint
    pooling: tuple[PoolingMode, ...] = ("mean",)  # several are concatenated
    include_prompt: bool = True
    steps: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    truncate_dim: int | None = None
    assumed: str = ""  # why the pooling is not stated by the files
    sparse: SparseModule | None = None  # of a SparseEncoder, which has no pooling and no steps
    multi: MultiModule | None = None  # of a ColBERT, which has no pooling: its steps are of tokens

    @property
    def step_names(self) -> list[str]:
        """The modules after pooling, by their published names."""
        return [type(step).__name__.removesuffix("Module") for step in self.steps]

    @property
    def normalize(self) -> bool:
        """Whether the published pipeline ends in unit vectors."""
        return bool(self.steps) and isinstance(self.steps[-1], NormalizeModule)
