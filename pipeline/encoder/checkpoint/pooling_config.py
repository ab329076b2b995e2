"""The config.json of a Pooling module, in every spelling of sentence-transformers 1 to 6."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.modules import PoolingMode
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# In the order in which the older flags are concatenated.
POOLING_MODES: tuple[PoolingMode, ...] = (
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
)
# Up to version 5 each mode had a flag.
_FLAGS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The width is that of the encoder, whatever these say, as in sentence-transformers.
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")


def pooling_modes(settings: Mapping[str, Any], file: Path) -> tuple[PoolingMode, ...]:
    """The modes, whose vectors are concatenated: `pooling_mode`, else the flags, else the mean.

    Raises:
        CheckpointError: a mode or a key that is set is not known.
    """
    known = {"pooling_mode", "include_prompt", *_FLAGS, *_WIDTHS}
    if odd := sorted(key for key, value in settings.items() if value and key not in known):
        raise CheckpointError(
            f"{file} sets {one_line(', '.join(odd))}, which sentence-transformers' Pooling does "
            "not know",
            hint=f"use one of {', '.join(_FLAGS)}, or pooling_mode",
        )
    modes = settings.get("pooling_mode")
    if modes is None:
        return tuple(mode for flag, mode in _FLAGS.items() if settings.get(flag)) or ("mean",)
    names = modes if isinstance(modes, list) else [modes]
    unknown = [name for name in names if name not in POOLING_MODES]
    if unknown or not names:
        listed = one_line(", ".join(map(shown, unknown or [modes])))
        raise CheckpointError(
            f"{file} names the pooling {listed}",
            hint=f"use one of {', '.join(POOLING_MODES)}",
        )
    return tuple(mode for name in names for mode in POOLING_MODES if mode == name)
