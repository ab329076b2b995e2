"""Any other architecture that transformers loads without remote code: padded, correct, slower.

The only module that computes with transformers, imported only when a checkpoint needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline.encoder.architecture.config_keys import RESTORE_CONFIG
from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.architecture.transformers_config import LIST_MODELS, read_config
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import model_class
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    UNUSED_POOLER,
    list_some,
)
from pipeline.encoder.model.packed_batch import PackedBatch, read_tokens
from pipeline.errors import CheckpointError

logger = logging.getLogger(__name__)

# The longest sequence of a group may exceed the shortest by a quarter plus this many tokens.
_PADDING_SLACK_TOKENS = 8
# Weights that may be missing, as of a pooler that nothing reads, are no more than that.
_SLACK_PARAMETERS = 20_000_000


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
            CheckpointError: it needs remote code, transformers does not know it, or its tensors
                do not match.
        """
        checkpoint = card.checkpoint
        config = read_config(checkpoint)
        self._head = card.head
        self._reads = reads
        self._model = _load(card, config, dtype).to(device).eval()
        pad = getattr(config, "pad_token_id", None)
        self._padding = 0 if pad is None else int(pad)
        logger.warning(
            "%s: bei-jobs does not know %s; transformers computes it, padded: correct, but slower",
            checkpoint.name,
            model_class(checkpoint.config) or f"model_type {config.model_type}",
        )

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Compute a batch in groups of similar length, each padded to its longest."""
        groups = group_similar_lengths(batch.offsets)
        values = torch.cat([self._group(batch, first, last) for first, last in groups])
        read = read_tokens(batch, self._reads)
        return values if read is None else values[read]

    def _group(self, batch: PackedBatch, first: int, last: int) -> Tensor:
        bounds = batch.offsets[first : last + 1]
        lengths = batch.cu_seqlens[first : last + 1].diff()
        width = max(stop - start for start, stop in pairwise(bounds))
        mask = torch.arange(width, device=lengths.device) < lengths[:, None]  # [B, L]
        tokens = slice(bounds[0], bounds[-1])
        inputs = {
            "input_ids": _pad(batch.ids[tokens].long(), mask, self._padding),
            "attention_mask": mask.long(),
        }
        if batch.type_ids is not None and getattr(self._model.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = _pad(batch.type_ids[tokens].long(), mask, 0)
        out = self._model(**inputs)
        values: Tensor = out.last_hidden_state if self._head == "embedding" else out.logits
        return values if self._head == "sequence_classifier" else values[mask]


def group_similar_lengths(offsets: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges (first, past the last) of neighbouring sequences whose lengths are close.

    Args:
        offsets: where each sequence starts and the last one ends.
    """
    lengths = [stop - start for start, stop in pairwise(offsets)]
    first = 0
    for last in range(1, len(lengths) + 1):
        if last < len(lengths):
            group = lengths[first : last + 1]
            if max(group) <= min(group) * 5 // 4 + _PADDING_SLACK_TOKENS:
                continue
        yield first, last
        first = last


def _pad(flat: Tensor, mask: Tensor, value: int) -> Tensor:
    """Spread tokens [T] over the true entries of a mask [B, L]."""
    padded = torch.full(mask.shape, value, dtype=flat.dtype, device=flat.device)
    padded[mask] = flat
    return padded


def _load(card: ModelCard, config: Any, dtype: torch.dtype) -> Any:
    """Load the class that has the head and check that no weight is random or dropped."""
    import transformers

    checkpoint, head = card.checkpoint, card.head
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    auto: Any = transformers.AutoModel
    if head == "sequence_classifier":
        auto = transformers.AutoModelForSequenceClassification
    elif head == "token_classifier":
        auto = transformers.AutoModelForTokenClassification
    elif config.is_encoder_decoder or model_class(checkpoint.config).endswith("EncoderModel"):
        auto = transformers.AutoModelForTextEncoding
    try:
        with torch.device("meta"):
            _check_parameters(card, auto.from_config(config, trust_remote_code=False))
        model, info = auto.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.name}: transformers cannot load it: {error}",
            hint=LIST_MODELS,
        ) from error
    _check_keys(checkpoint, info)
    return model


def _check_parameters(card: ModelCard, empty: Any) -> None:
    """Refuse a config of a far larger model than the files hold.

    transformers fills every missing weight with random numbers before it says which are missing.
    """
    wanted = sum(parameter.numel() for parameter in empty.parameters())
    if wanted > 2 * card.parameters + _SLACK_PARAMETERS:
        raise CheckpointError(
            f"{card.checkpoint.folder / 'config.json'} describes {wanted:,} parameters, but the "
            f"weights have {card.parameters:,}",
            hint=RESTORE_CONFIG,
        )


def _check_keys(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    patterns = [pattern for pattern, _ in UNUSED] + [UNUSED_POOLER]
    problems = []
    for kind, problem in (("missing_keys", "missing"), ("unexpected_keys", "left over")):
        keys = sorted(k for k in info[kind] if not any(p.search(k) for p in patterns))
        if keys:
            problems.append(f"{problem}: {list_some(keys)}")
    mismatched = [str(key[0]) for key in info.get("mismatched_keys", ())]
    if mismatched:
        problems.append(f"of another shape: {list_some(sorted(mismatched))}")
    if problems:
        raise CheckpointError(
            f"{checkpoint.name}: transformers loads it as {checkpoint.config.get('model_type')!r} "
            f"but the tensors do not match; {'; '.join(problems)}",
            hint="choose another checkpoint: this one probably needs code of its own, which "
            "bei-jobs never runs",
        )
