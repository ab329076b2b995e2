"""Numbers of config.json against the tensors of the file, before anything of that size is made.

A known family makes lists of as many entries as there are layers and labels, and transformers makes
more than that. Tensor shapes cost nothing to lie about in config.json, but the header's tensors
must fill the file, so a size that no tensor has is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.encoder.architecture.config_keys import RESTORE_CONFIG
from pipeline.encoder.architecture.recognise import FAMILIES
from pipeline.encoder.checkpoint.bounds import (
    HARMLESS_COUNT,
    MAX_COMPUTED_POSITIONS,
    MAX_POSITIONS,
)
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import is_whole
from pipeline.encoder.checkpoint.safetensors_headers import TensorInfo
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# Parts of the names that families and transformers give to numbers of layers, to widths and rows of
# tensors, and to lengths of position tables.
_LAYERS = ("layer",)
_WIDTHS = (
    "vocab_size", "hidden_size", "hidden_dim", "intermediate_size", "head_dim", "num_labels",
    "embedding_size", "d_model", "d_ff", "d_kv", "ffn_dim", "n_embd", "n_inner", "n_head", "heads",
    "buckets", "experts", "groups",
)  # fmt: skip
_POSITIONS = ("position", "n_ctx", "window")


def check_sizes(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
    """Check every number of config.json that something is made in the size of.

    Args:
        checkpoint: whose config.json is checked.
        tensors: of its files.

    Raises:
        CheckpointError: a number is beyond what its tensors can have; the message names the key.
    """
    known = checkpoint.config.get("model_type") in tuple(FAMILIES)
    positions = MAX_POSITIONS if known else MAX_COMPUTED_POSITIONS
    widest = max((n for info in tensors.values() for n in info.shape), default=0)
    bounds = (
        (_LAYERS, max(HARMLESS_COUNT, len(tensors)), f"the file has {len(tensors):,} tensors"),
        (_WIDTHS, max(HARMLESS_COUNT, widest), f"no tensor is wider than {widest:,}"),
        (_POSITIONS, positions, f"at most {positions:,} positions are supported"),
    )
    for key, number in _numbers(checkpoint.config):
        for names, bound, reason in bounds:
            if number > bound and any(name in key.lower() for name in names):
                raise CheckpointError(
                    f"{checkpoint.folder / 'config.json'} sets {one_line(key)} = {shown(number)}, "
                    f"but {reason}",
                    hint=RESTORE_CONFIG,
                )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in a config with the nearest key above each; its depth is bounded."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif is_whole(value):
        yield key, value
