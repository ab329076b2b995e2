"""The precision of a model on a device, and the reason for it. Imports no torch."""

from __future__ import annotations

from typing import get_args

from pipeline.choice import Choice
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.errors import UsageError
from pipeline.spec import Precision


def choose_precision(precision: str, config: EncoderConfig, device: str) -> Choice[str]:
    """The precision to compute in; `auto` is float32 on a CPU and 16 bits on a GPU.

    Raises:
        UsageError: there is no such precision, this family overflows in it, or the device lacks it.
    """
    allowed = get_args(Precision)
    if precision not in allowed:
        raise UsageError(f"no precision {precision!r}", hint=f"use one of {', '.join(allowed)}")
    if precision == "float16" and config.float16_overflows:
        raise UsageError(
            f"{config.family} overflows in float16", hint="use --precision bfloat16 or float32"
        )
    if precision == "int8" and device != "cpu":
        raise UsageError(
            f"int8 is for a CPU; the device is {device}", hint="use --precision auto on a GPU"
        )
    if precision != "auto":
        return Choice(precision, "set by the user")
    if config.static:
        return Choice("float32", "the model is a table, and its size is what limits it")
    if not device.startswith("cuda"):
        return Choice("float32", "on a CPU, auto is float32, as in the model's own library")
    if config.half == "bfloat16":
        return Choice(
            "bfloat16", f"{device} computes faster in 16 bits, and float16 could overflow"
        )
    return Choice(
        "float16",
        f"{device} computes faster in 16 bits, and {config.family} does not overflow in float16",
    )
