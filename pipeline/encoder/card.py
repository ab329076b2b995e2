"""The card of a model, read once from its checkpoint. Loads no weights and imports no torch.

    card = open_card("sentence-transformers/all-MiniLM-L6-v2")
    card.dimensions, card.max_length, card.modules.pooling

Everything that needs facts about a model takes its card: the spec, the engine, the tokenizer, the
heads, and the commands that describe a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pipeline.encoder.architecture import transformers_config
from pipeline.encoder.architecture.config_bounds import check_sizes
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.multi_head import MultiHead, find_multi_head
from pipeline.encoder.architecture.published import (
    longest_sequence,
    published_modules,
    published_width,
)
from pipeline.encoder.architecture.recognise import recognise
from pipeline.encoder.architecture.sparse_head import SparseHead, find_sparse_head
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.config_values import (
    HeadKind,
    head_kind,
    model_class,
)
from pipeline.encoder.checkpoint.cross_encoder import (
    CrossEncoder,
    read_cross_encoder,
)
from pipeline.encoder.checkpoint.lora import refused
from pipeline.encoder.checkpoint.module_tensors import module_tensors
from pipeline.encoder.checkpoint.modules import DenseModule, SentenceModules
from pipeline.encoder.checkpoint.multi_modules import read_multi_modules
from pipeline.encoder.checkpoint.safetensors_headers import (
    MatchedTensors,
    TensorInfo,
    parameters,
)
from pipeline.encoder.checkpoint.sentence_modules import read_modules
from pipeline.encoder.checkpoint.sparse_modules import read_sparse_modules
from pipeline.encoder.checkpoint.tokenizer_check import check_tokenizer
from pipeline.encoder.checkpoint.tokenizer_reading import TokenizerReading
from pipeline.spec import Kind, Truncate, Vectors

# Tokens per sequence for an encoder that states no limit, and for a table, which has none.
_DEFAULT_MAX_LENGTH = 512
_TABLE_MAX_LENGTH = 2**30


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model: its identity, settings, tensors, module files, labels, limits and prompts."""

    checkpoint: Checkpoint
    config: EncoderConfig
    head: HeadKind
    modules: SentenceModules
    module_tensors: tuple[Mapping[str, TensorInfo], ...] = field(hash=False)  # per module step
    matched: MatchedTensors | None = field(hash=False)  # None if transformers computes the model
    tensors: int  # in the files
    parameters: int
    dtype: str  # of the weights, as safetensors names it
    dimensions: int  # of the published vector
    max_length: int | None  # tokens of a sequence, special ones included; None if unbounded
    positions: int | None  # the most that max_length can be raised to; None if unbounded
    tokenizer: TokenizerReading = field(hash=False, compare=False, repr=False)
    # How it scores a pair of texts.
    cross_encoder: CrossEncoder = field(default_factory=CrossEncoder)
    sparse: SparseHead | None = field(default=None, hash=False)  # how it weighs the terms of a text
    multi: MultiHead | None = field(default=None, hash=False)  # how each token gets a vector

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self.checkpoint.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits, () without a classifier."""
        return self.config.labels

    @property
    def vectors(self) -> tuple[Vectors, ...]:
        """The kinds of vectors that the model has a head for, first what it was trained for."""
        if self.head != "embedding":
            return ()
        dense = self.modules.sparse is None and self.modules.multi is None
        there = {"dense": dense, "sparse": self.sparse, "multi": self.multi}
        return tuple(kind for kind in get_args(Vectors) if there[kind])

    @property
    def kind(self) -> str:
        """The kind of text that is read, "" where the model does not tell them apart."""
        files = self.checkpoint.files
        if self.multi is not None and self.multi.tells_apart:
            return files.asked_kind or "document"
        return files.kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of text that a job can name, () where the model does not tell them apart."""
        if (router := self.checkpoint.files.router) is not None:
            return router.kinds
        return get_args(Kind) if self.multi is not None and self.multi.tells_apart else ()

    @property
    def default_max_length(self) -> int:
        """Tokens of a sequence where the user sets no limit."""
        default = _TABLE_MAX_LENGTH if self.config.static else _DEFAULT_MAX_LENGTH
        return self.max_length or default

    @property
    def uses_type_ids(self) -> bool:
        """Whether the model distinguishes the two texts of a pair by token types.

        Some checkpoints have a table of types whose second row nothing reads: their tokenizer's
        files say so.
        """
        return self.config.token_types > 1 and self.tokenizer.passes_types

    @property
    def truncation_side(self) -> Truncate:
        """The end of a long text that is cut unless the user says."""
        return "left" if self.tokenizer.truncation_side == "left" else "right"

    @property
    def is_language_model(self) -> bool:
        """Whether nothing in the files of a language model says what it was trained to return."""
        language_model = model_class(self.checkpoint.config).endswith("ForCausalLM")
        return language_model and self.head == "embedding" and not self.checkpoint.files.modules

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """Published tensors that no output depends on; of dense vectors, if there are any."""
        unused = self.matched.unused if self.matched else ()
        used = set[str]()
        if self.modules.sparse is not None and self.sparse is not None:
            used = {info.name for info in self.sparse.tensors.values()}
        if self.modules.multi is not None and self.multi is not None:
            used = {info.name for info in self.multi.tensors}
        return tuple(name for name in unused if name not in used)

    def has_leading_norm(self, dimensions: Sequence[int]) -> bool:
        """Whether a LayerNorm comes before `dimensions` leading values are kept, () for all.

        Nomic trained its leading dimensions so: model card of nomic-embed-text-v1.5.
        """
        return bool(dimensions) and self.config.family == "nomic_bert"

    def gives_unit_length(self, dimensions: Sequence[int]) -> bool:
        """Whether vectors have unit length where the user does not say."""
        return self.modules.normalize or self.has_leading_norm(dimensions)

    def identity(self) -> dict[str, Any]:
        """The facts that shape values, as the JSON that a job's space is hashed from.

        Keys, values and their meaning are frozen: a change would make every output incompatible.
        """
        config = self.config
        shared = {
            "family": config.family,
            "architecture": model_class(self.checkpoint.config),
            "parameters": self.parameters,
            "tensors": self.tensors,
            "unused_tensors": list(self.unused_tensors),
            "dtype": self.dtype,
            "uses_type_ids": config.token_types > 1,
            "gpu_precision": config.half,
            "encoder": config.to_json(),
            **self._tokenizer_identity(),
        }
        # Later than the keys above, where values are others than those of 0.1.0.
        if self.checkpoint.files.adapter_config is not None:
            shared["adapter"] = "lora"
        if self.matched is None and transformers_config.was_padded_wrongly(self.checkpoint):
            shared["padding"] = "none"
        if self.head != "embedding":
            return shared | {
                "labels": list(self.labels),
                "multi_label": config.multi_label,
                "regression": config.regression,
            }
        modules = self.modules
        if modules.sparse is not None or modules.multi is not None:
            return shared | {"default_prompt_name": modules.default_prompt_name}
        # Keys of checkpoints that were read differently before the key was there.
        dense = [step for step in modules.steps if isinstance(step, DenseModule)]
        assumed = [step.folder for step in dense if not step.activation_stated]
        later: dict[str, Any] = {"default_activations": assumed} if assumed else {}
        return (
            shared
            | later
            | {
                "dimensions": self.dimensions,
                "pooling": list(modules.pooling),
                "normalize": modules.normalize,
                "modules": modules.step_names,
                "include_prompt": modules.include_prompt,
                "default_prompt_name": modules.default_prompt_name,
            }
        )

    def _tokenizer_identity(self) -> dict[str, Any]:
        """Where the tokenizer is read otherwise than by 0.1.0: how, so that no output is shared."""
        identity: dict[str, Any] = {}
        if (changed := self.tokenizer.change()) is not None:
            identity["tokenizer"] = changed
        # A single text has one type, so that only pairs differ.
        if self.head == "sequence_classifier" and self.config.token_types > 1:
            identity |= {} if self.uses_type_ids else {"token_types_passed": False}
        return identity

    def to_json(self, task: str) -> dict[str, Any]:
        """The card as users read it, for a model that does `task`."""
        checkpoint = self.checkpoint
        described: dict[str, Any] = {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "sha256": checkpoint.sha256,
            "fingerprint": checkpoint.fingerprint,
            "task": task,
            **self.identity(),
            "max_length": self.max_length,
            "path": str(checkpoint.path),
            **({"base": checkpoint.base} if checkpoint.base else {}),
        }
        if self.cross_encoder.prompts:
            described["prompts"] = dict(self.cross_encoder.prompts)
        if self.head == "embedding":
            described["prompts"] = dict(self.modules.prompts)
            described["vectors"] = list(self.vectors)
        if self.kinds or checkpoint.files.router is not None:
            described["kinds"] = list(self.kinds)
        return described


def open_card(
    model: str,
    revision: str | None = None,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    kind: str = "",
) -> ModelCard:
    """Find a model and read its card; see `resolve` for the arguments.

    Raises:
        CheckpointError: the model cannot be found or fetched, or its files contradict each other.
        UsageError: a revision was given for something that has none.
    """
    return read_card(resolve(model, revision, cache_dir=cache_dir, offline=offline, kind=kind))


def read_card(checkpoint: Checkpoint) -> ModelCard:
    """Read the card of a checkpoint.

    Raises:
        CheckpointError: its files contradict each other, or bei-jobs cannot compute it.
    """
    if (outline := checkpoint.files.tokenizer) is not None:
        check_tokenizer(checkpoint.folder / "tokenizer.json", outline)
    tensors = checkpoint.files.tensors
    check_sizes(checkpoint, tensors)
    cross_encoder = read_cross_encoder(checkpoint)
    recognised = recognise(checkpoint, tensors, cross_encoder)
    if recognised:
        config, positions = recognised.config, recognised.config.max_length
    elif checkpoint.files.adapter_config is not None:
        raise refused(f"{checkpoint.name} is an adapter of a family that transformers computes")
    else:
        config, positions = transformers_config.read_settings(checkpoint)
    head = "sequence_classifier" if cross_encoder.score_tokens else head_kind(checkpoint.config)
    embeds = head == "embedding"
    modules = read_multi_modules(checkpoint.files, checkpoint.config) if embeds else None
    if modules is None and embeds:
        modules = read_sparse_modules(checkpoint.files)
    if modules is None:
        modules = read_modules(checkpoint.files, checkpoint.config, embeds=embeds)
    if embeds and modules.multi is None:
        modules = published_modules(modules, checkpoint, config)
    multi = find_multi_head(checkpoint, modules, config) if embeds else None
    dimensions = published_width(modules, config) if embeds else 0
    if modules.multi is not None and multi is not None:
        dimensions = multi.dimensions
    matched = recognised.matched if recognised else None
    tokenizer = TokenizerReading(checkpoint)
    return ModelCard(
        checkpoint=checkpoint,
        config=config,
        head=head,
        modules=modules,
        module_tensors=tuple(
            module_tensors(checkpoint.files, step) for step in modules.steps if embeds
        ),
        matched=matched,
        tensors=len(tensors),
        parameters=parameters(tensors.values()),
        dtype="/".join(sorted({t.dtype for t in tensors.values() if "I" not in t.dtype})),
        dimensions=dimensions,
        max_length=longest_sequence(
            tokenizer,
            _limited(modules, multi, checkpoint.files.asked_kind),
            config,
            cross_encoder,
            positions,
            has_table=transformers_config.has_position_table(tensors),
        ),
        positions=positions,
        tokenizer=tokenizer,
        cross_encoder=cross_encoder,
        sparse=find_sparse_head(checkpoint, modules, config, matched) if embeds else None,
        multi=multi,
    )


def _limited(modules: SentenceModules, multi: MultiHead | None, kind: str) -> SentenceModules:
    """The modules with the limit for a kind of text, where it has one of its own."""
    length = multi.reading(kind).length if multi is not None else None
    return modules if length is None else replace(modules, max_seq_length=length)
