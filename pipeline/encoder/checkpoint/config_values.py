"""Values of a config.json, read alike for every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.errors import CheckpointError

#: A config.json as it was parsed.
Config = Mapping[str, Any]
#: What a checkpoint was trained to give: a vector, the logits of a text, or those of each token.
HeadKind = Literal["embedding", "sequence_classifier", "token_classifier"]


def model_class(config: Config) -> str:
    """The class a checkpoint was saved from, "" where it does not say.

    Old exports give a name where others give a list.
    """
    names = config.get("architectures") or ""
    return str(names[0] if isinstance(names, list) else names)


def head_kind(config: Config) -> HeadKind:
    """The kind of head that a checkpoint was saved with."""
    name = model_class(config)
    if name.endswith("ForTokenClassification"):
        return "token_classifier"
    return "sequence_classifier" if name.endswith("ForSequenceClassification") else "embedding"


def size(config: Config, key: str, default: int | None = None, *, least: int = 1) -> int:
    """A size of the config, the default where it is null too.

    Raises:
        KeyError, ValueError: there is none, or it is no number of at least `least`.
    """
    value = config[key] if default is None else config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int | float) or value < least or value != int(value):
        raise ValueError(f"{key} is {value!r}, which is not a valid size")
    return int(value)


def labels(config: Config) -> tuple[str, ...]:
    """Names of the classes in the order of the logits.

    Raises:
        CheckpointError: id2label does not name the classes 0, 1, 2, …
    """
    named = config.get("id2label") or {}
    count = config.get("num_labels", 2)
    if not isinstance(named, dict) or not isinstance(count, int):
        raise CheckpointError(
            f"config.json sets id2label = {named!r} and num_labels = {count!r}; bei-jobs reads an "
            "object and a number"
        )
    if not named:
        return tuple(f"LABEL_{i}" for i in range(count))
    numbers = [str(i) for i in range(len(named))]
    if sorted(map(str, named)) != sorted(numbers):
        raise CheckpointError(
            f"config.json numbers its id2label {', '.join(map(str, named))}; classes are counted "
            "from 0"
        )
    by_number = {str(key): str(name) for key, name in named.items()}
    return tuple(by_number[number] for number in numbers)


def multi_label(config: Config) -> bool:
    """Whether classes do not exclude each other: scores are then sigmoids, not a softmax."""
    return config.get("problem_type") == "multi_label_classification"


def regression(config: Config) -> bool:
    """Whether the logits are values of a scale: scores are then the logits themselves."""
    return config.get("problem_type") == "regression"
