"""Any other architecture that transformers loads without remote code: without padding, slower.

The only module that computes with transformers, imported only when a checkpoint needs it.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.architecture.transformers_config import read_config
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.config_values import model_class
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.model.attention import LengthGroup, group_equal_lengths
from pipeline.encoder.model.packed_batch import PackedBatch, read_tokens
from pipeline.encoder.model.transformers_weights import load_weights
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError

logger = logging.getLogger(__name__)

# Entries of the attention of one forward pass, all heads: 256 MiB in float32.
_MAX_ATTENTION_ENTRIES = 64 * 1024 * 1024
_OTHER_MODEL = "choose another checkpoint: `bei-jobs models` lists those that work"


class TransformersModel:
    """A transformers model behind the interface of `encoder.Encoder`.

    Called with a packed batch it returns the hidden states that are read, [T, E] or [S, E], of an
    embedding model; logits [S, C] of a sequence classifier, [T, C] of a token classifier.
    """

    capturable = False

    def __init__(
        self,
        card: ModelCard,
        device: torch.device,
        dtype: torch.dtype,
        reads: Reads,
    ) -> None:
        """Load the model.

        Raises:
            CheckpointError: it needs remote code, transformers does not know it, it reads no token
                ids, or its tensors do not match.
        """
        checkpoint = card.checkpoint
        config = read_config(checkpoint)
        self._card = card
        self._reads = reads
        self._model = load_weights(card, config, dtype).to(device).eval()
        self._inputs = inspect.signature(self._model.forward).parameters
        if "input_ids" not in self._inputs:
            raise CheckpointError(
                f"{checkpoint.name}: {type(self._model).__name__} of transformers reads no tokens",
                hint=_OTHER_MODEL,
            )
        if card.head == "sequence_classifier":
            _accept_groups(self._model)
        self._stateful = _has_state(self._model)
        self._types_of_text = _types_of_text(card) if config.model_type == "xlnet" else None
        logger.warning(
            "%s: bei-jobs does not know %s; transformers computes it in groups of equal length: "
            "correct, but slower",
            checkpoint.name,
            model_class(checkpoint.config) or f"model_type {config.model_type}",
        )

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Compute a batch in groups of equal length, so that nothing is padded.

        Padding is not neutral in every architecture: XLNet reads its last position, Funnel pools
        over it, FNet mixes it in.
        """
        groups = group_equal_lengths(batch.offsets)
        parts = [part for group in groups for part in _parts(group, self._card.config.heads)]
        values = torch.cat([self._values(batch, part) for part in parts])
        if self._card.head == "sequence_classifier":
            return _with_empty(values, batch)
        read = read_tokens(batch, self._reads)
        return values if read is None else values[read]

    def _values(self, batch: PackedBatch, group: LengthGroup) -> Tensor:
        """Values of a group, [T, E or C] or [B, C]; of one text at a time if they do not go
        together.

        T5 and BART refuse texts that hold different numbers of end tokens, each of which alone
        they compute.
        """
        inputs = self._group_inputs(batch, group)
        try:
            return self._forward(inputs)
        except Exception as error:
            if group.count == 1 or is_out_of_memory(error):
                raise
        rows = [{name: x[i : i + 1] for name, x in inputs.items()} for i in range(group.count)]
        return torch.cat([self._forward(row) for row in rows])

    def _group_inputs(self, batch: PackedBatch, group: LengthGroup) -> dict[str, Tensor]:
        shape = (group.count, group.length)
        ids = batch.ids[group.start : group.stop].long().view(shape)
        inputs = {"input_ids": ids}
        if "attention_mask" in self._inputs:
            seen = batch.attention_mask
            inputs["attention_mask"] = (
                torch.ones_like(ids)
                if seen is None
                else seen[group.start : group.stop].long().view(shape)
            )
        if batch.type_ids is not None and "token_type_ids" in self._inputs:
            types = batch.type_ids[group.start : group.stop]
            inputs["token_type_ids"] = types.long().view(shape)
        elif self._types_of_text is not None:
            before, after = self._types_of_text
            row = torch.zeros(group.length, dtype=torch.long)
            row[: len(before)] = torch.tensor(before)
            row[group.length - len(after) :] = torch.tensor(after)
            inputs["token_type_ids"] = row.to(ids.device).expand(shape)
        return inputs

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        model = _fresh(self._model) if self._stateful else self._model
        out = model(**inputs)
        name = "last_hidden_state" if self._card.head == "embedding" else "logits"
        values: Tensor | None = getattr(out, name, None)
        sequences, length = inputs["input_ids"].shape
        per_token = self._card.head != "sequence_classifier"
        expected = (sequences, length) if per_token else (sequences,)
        if values is None or values.shape[:-1] != expected:
            got = "none" if values is None else "x".join(map(str, values.shape))
            raise CheckpointError(
                f"{self._card.name}: {type(model).__name__} of transformers gives no {name} of "
                f"each {'token' if per_token else 'text'}: its shape is {got} for token ids of "
                f"{sequences}x{length}",
                hint=_OTHER_MODEL,
            )
        return values.flatten(0, 1) if per_token else values


def _parts(group: LengthGroup, heads: int) -> Iterator[LengthGroup]:
    """A group in parts whose attention is small enough where a model makes all of it at once."""
    count = max(1, _MAX_ATTENTION_ENTRIES // (max(1, heads) * group.length**2))
    step = count * group.length
    for start in range(group.start, group.stop, step):
        yield LengthGroup(start, min(start + step, group.stop), group.length)


def _with_empty(values: Tensor, batch: PackedBatch) -> Tensor:
    """Logits of all sequences [S, C], given those with tokens; NaN for the others."""
    lengths = batch.cu_seqlens.diff()
    if values.shape[0] == lengths.shape[0]:
        return values
    rows = values.new_full((lengths.shape[0], values.shape[1]), torch.nan)
    rows[lengths > 0] = values
    return rows


def _accept_groups(model: Any) -> None:
    """Let a classifier without a padding token take several texts: none of them is padded.

    transformers then reads the last token, as it does of one text.
    """
    config = model.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = -1  # no token has it


def _types_of_text(card: ModelCard) -> tuple[list[int], list[int]]:
    """Types of the special tokens before and after a single text, whose own tokens have type 0.

    XLNet's tokenizer gives the last token a type of its own.
    """
    sample = load_tokenizer(card).encode("a")
    text = sample.special_tokens_mask.index(0)
    return sample.type_ids[:text], sample.type_ids[text + sample.special_tokens_mask.count(0) :]


def _has_state(model: Any) -> bool:
    """Whether a forward pass changes what the next one computes.

    BigBird attends sparsely until its first short text, and rotary positions of these kinds keep
    the frequencies of the longest text.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None) or ""
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if "dynamic" in str(kind) or kind == "longrope":
                return True
        if hasattr(module, "set_attention_type"):
            return True
    return False


def _fresh(model: Any) -> Any:
    """The model as it was loaded, with the same weights in memory."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
