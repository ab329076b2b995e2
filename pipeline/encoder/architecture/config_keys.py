"""The parts of config.json that families read the same way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.encoder.architecture.encoder_config import Activation, EncoderConfig, Head, Rope
from pipeline.encoder.architecture.tensor_names import Layout, Names, biased
from pipeline.encoder.checkpoint.config_values import (
    Config,
    head_kind,
    labels,
    multi_label,
    regression,
)
from pipeline.encoder.checkpoint.safetensors_headers import TensorInfo
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from pipeline.encoder.checkpoint.checkpoint import Checkpoint

Tensors = Mapping[str, TensorInfo]
# A hint of several errors.
RESTORE_CONFIG = "download the checkpoint again, or undo the edit of its config.json"

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "geglu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "relu": "relu",
    "reglu": "relu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One recognised checkpoint: its settings and the names of its tensors."""

    config: EncoderConfig
    layout: Layout
    head_names: Names
    skip: frozenset[str] = frozenset()  # own names that this checkpoint does not have
    unused: tuple[re.Pattern[str], ...] = ()  # tensors of the family that no text depends on


@contextmanager
def config_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn errors of missing or invalid values of config.json into one that names the file."""
    file, kind = checkpoint.folder / "config.json", checkpoint.config.get("model_type")
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}, which a {one_line(kind)} needs") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file} is not the config of a {one_line(kind)}: {one_line(error)}",
            hint=RESTORE_CONFIG,
        ) from error


def check_supported(config: Config, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise if a setting that changes the output has a value that bei-jobs does not compute.

    Raises:
        CheckpointError: names the setting and its supported values.
    """
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise CheckpointError(
                f"config.json sets {key} = {shown(config[key])}; supported for model_type "
                f"{config['model_type']!r}: {', '.join(map(repr, values))}",
                hint="check whether config.json was edited: no published checkpoint of this family "
                "needs this value",
            )


def activation(name: object) -> Activation:
    """bei-jobs' own name of a published activation.

    Raises:
        CheckpointError: bei-jobs does not compute it.
    """
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise CheckpointError(f"config.json names the activation {shown(name)}; known: {known}")
    return _ACTIVATIONS[name]


def with_head(
    encoder_config: EncoderConfig, config: Config, *, sequence: Head, tokens: Head
) -> EncoderConfig:
    """Add the head that the checkpoint's class has, and its labels."""
    kind = head_kind(config)
    if kind == "embedding":
        return encoder_config
    head = sequence if kind == "sequence_classifier" else tokens
    return replace(
        encoder_config,
        head=head,
        labels=labels(config),
        multi_label=multi_label(config),
        regression=regression(config),
    )


def with_biases(layout: Layout, flags: Mapping[str, tuple[str, ...]], config: Config) -> Layout:
    """Add the biases that the config's flags ask for."""
    only = tuple(own for flag, names in flags.items() if config.get(flag) for own in names)
    return replace(
        layout, once=biased(layout.once, only=only), layer=biased(layout.layer, only=only)
    )


def windows(kinds: list[str], distance: int) -> tuple[int | None, ...]:
    """The window of every layer: `distance` for windowed layers, None for the others."""
    return tuple(distance if kind == "sliding_attention" else None for kind in kinds)


def ropes(
    config: Config,
    dim: int,
    kinds: list[str],
    *,
    full: float,
    sliding: float,
    scaled: tuple[str, ...],
) -> tuple[Rope, ...] | None:
    """Rotary settings of models whose windowed layers have their own base; None as in `rope`.

    As transformers does it, `rope_scaling` changes those keys of a kind's `rope_parameters` that it
    has. The kind of scaling under its old key, `type`, is none of them.

    Args:
        config: of the model.
        dim: of a head.
        kinds: of each layer, "full_attention" or "sliding_attention".
        full: the base of layers without a window.
        sliding: that of the others.
        scaled: the kinds that `rope_scaling` scales.
    """
    given, scaling = (_object(config, key) for key in ("rope_parameters", "rope_scaling"))
    by_kind: dict[str, Rope | None] = {}
    for kind, theta in (("full_attention", full), ("sliding_attention", sliding)):
        own = _object(given, kind) or {"rope_type": "default"}
        if kind in scaled:
            own = {**own, **scaling}
        by_kind[kind] = rope({"rope_theta": theta, "rope_parameters": own}, dim)
    layers = tuple(layer for kind in kinds if (layer := by_kind[kind]) is not None)
    return layers if len(layers) == len(kinds) else None


def rope(config: Config, dim: int) -> Rope | None:
    """Rotary settings from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old), which
    wins where both are there.

    Alibaba's `ntk` multiplies the base by f and divides the frequencies by f^(2/dim), which is
    linear interpolation of another base. None if bei-jobs does not compute the kind of scaling.
    """
    parameters, scaling = (_object(config, key) for key in ("rope_parameters", "rope_scaling"))
    scaling = scaling or parameters
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    if kind == "default":
        return Rope(theta, dim)
    factor = float(scaling["factor"])
    if not factor > 0:
        raise ValueError(f"the factor of rope_scaling is {factor}")
    if kind == "linear":
        return Rope(theta, dim, factor)
    if kind == "ntk":
        return Rope(theta * factor, dim, factor ** (2 / dim))
    if kind == "llama3":
        return Rope(
            theta,
            dim,
            factor,
            float(scaling["low_freq_factor"]),
            float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        )
    return None


def _object(config: Config, key: str) -> dict[str, Any]:
    """An object in the config, {} where there is none."""
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{key} is {shown(given)}, which is not an object")
    return given
