"""What every family is made of: the parts that read config.json the same way."""

from __future__ import annotations

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
from pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from pipeline.encoder.checkpoint.checkpoint import Checkpoint

Tensors = Mapping[str, TensorInfo]

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
    """One recognised checkpoint: its settings and where its tensors are."""

    encoder: EncoderConfig
    layout: Layout
    head_names: Names
    skip: frozenset[str] = frozenset()


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what a config.json of missing or strange values causes into one error that names it."""
    file, kind = checkpoint.folder / "config.json", checkpoint.config.get("model_type")
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}, which a {kind} needs") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file} is not the config of a {kind}: {error}",
            hint="Fetch the checkpoint again, or undo the edit of its config.json.",
        ) from error


def refuse(config: Config, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise where a setting that changes the output has a value that nothing here computes."""
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise CheckpointError(
                f"config.json sets {key} = {config[key]!r}; supported for model_type "
                f"{config['model_type']!r}: {', '.join(map(repr, values))}",
                hint="No published checkpoint of this family needs it; is the config edited?",
            )


def activation(name: object) -> Activation:
    """Our name of a published activation.

    Raises:
        CheckpointError: nothing here computes it.
    """
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise CheckpointError(
            f"config.json names the activation {name!r}; known: {', '.join(sorted(_ACTIVATIONS))}"
        )
    return _ACTIVATIONS[name]


def headed(
    encoder: EncoderConfig, config: Config, *, sequence: Head, tokens: Head
) -> EncoderConfig:
    """Add the head that the architecture names, and its labels."""
    kind = head_kind(config)
    if kind == "embedding":
        return encoder
    head = sequence if kind == "sequence_classifier" else tokens
    return replace(
        encoder,
        head=head,
        labels=labels(config),
        multi_label=multi_label(config),
        regression=regression(config),
    )


def with_biases(layout: Layout, flags: Mapping[str, tuple[str, ...]], config: Config) -> Layout:
    """Add the biases that the config's flags ask for."""
    only = tuple(ours for flag, names in flags.items() if config.get(flag) for ours in names)
    return replace(
        layout, once=biased(layout.once, only=only), layer=biased(layout.layer, only=only)
    )


def windows(kinds: list[str], distance: int) -> tuple[int | None, ...]:
    """The distance for windowed layers, None for the others."""
    return tuple(distance if kind == "sliding_attention" else None for kind in kinds)


def ropes(
    config: Config, dim: int, kinds: list[str], *, full: float, sliding: float
) -> tuple[Rope, ...] | None:
    """Rotary settings of models whose windowed layers have a base of their own."""
    parameters = config.get("rope_parameters") or {}
    by_kind: dict[str, Rope | None] = {}
    for kind, theta in (("full_attention", full), ("sliding_attention", sliding)):
        settings = {"rope_theta": theta, "rope_parameters": parameters.get(kind)}
        scaled = kind == "full_attention"
        settings["rope_scaling"] = config.get("rope_scaling") if scaled else None
        by_kind[kind] = rope(settings, dim)
    found = tuple(each for kind in kinds if (each := by_kind[kind]) is not None)
    return found if len(found) == len(kinds) else None


def rope(config: Config, dim: int) -> Rope | None:
    """Rotary settings from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old).

    Alibaba's `ntk` multiplies the base by f and divides the frequencies by f^(2/dim), which is
    linear interpolation of another base. None: a kind that nothing here computes.
    """
    scaling: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        given = config.get(key) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{key} is {given!r}, which holds no settings")
        scaling.update(given)
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    if kind == "default":
        return Rope(theta, dim)
    factor = float(scaling["factor"])
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
