"""The precision of a model on a device, and the reason for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from pipeline.choice import Choice
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.errors import UsageError
from pipeline.spec import Precision

# On a CPU, `auto` is bfloat16 from this gain of its products on: it costs digits, so it must pay.
_LEAST_GAIN = 1.5
# The least hidden size of which it is measured: in a smaller model, products take little time.
_LEAST_WIDTH = 256


def choose_precision(
    precision: str, config: EncoderConfig, device: str, gain: Callable[[], float] | None = None
) -> Choice[str]:
    """The precision to compute in; `auto` is 16 bits on a GPU, and on a CPU that is made for them.

    Args:
        precision: one of `Precision`.
        config: of the model.
        device: such as "cpu" or "cuda:1".
        gain: measures how much faster this CPU multiplies in bfloat16; None for a GPU.

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
        return _on_cpu(config, gain)
    if config.half == "bfloat16":
        return Choice(
            "bfloat16", f"{device} computes faster in 16 bits, and float16 could overflow"
        )
    return Choice(
        "float16",
        f"{device} computes faster in 16 bits, and {config.family} does not overflow in float16",
    )


def gains_by_narrow_products(config: EncoderConfig) -> bool:
    """Whether 16 or 8 bits may pay on a CPU: bei-jobs computes the model, which is not tiny."""
    return not config.foreign and not config.static and config.hidden_size >= _LEAST_WIDTH


def _on_cpu(config: EncoderConfig, measure: Callable[[], float] | None) -> Choice[str]:
    if config.foreign:
        return Choice("float32", "on a CPU, transformers computes this model in float32")
    if config.hidden_size < _LEAST_WIDTH or measure is None:
        return Choice("float32", "the model is so small that 16 bits gain nothing on a CPU")
    gain = measure()
    measured = f"this CPU multiplies {gain:.1f} times as fast in bfloat16"
    if gain < _LEAST_GAIN:
        return Choice("float32", f"{measured}; bfloat16 is taken from {_LEAST_GAIN} on")
    return Choice("bfloat16", f"{measured} as in float32")
