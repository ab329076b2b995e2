"""Values of a config.json that are read the same way for every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.encoder.checkpoint.bounds import MAX_SIZE
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# A parsed config.json.
Config = Mapping[str, Any]
# What a checkpoint was trained to return: a vector, the logits of a text, or those of each token.
HeadKind = Literal["embedding", "sequence_classifier", "token_classifier"]


def model_class(config: Config) -> str:
    """The class that a checkpoint was saved from, "" if config.json names none.

    Old exports have a name where others have a list.
    """
    names = config.get("architectures") or ""
    return str(names[0] if isinstance(names, list) else names)


def head_kind(config: Config) -> HeadKind:
    """The kind of head that a checkpoint was saved with."""
    name = model_class(config)
    if name.endswith("ForTokenClassification"):
        return "token_classifier"
    return "sequence_classifier" if name.endswith("ForSequenceClassification") else "embedding"


def size(config: Config, key: str, default: int | None = None, *, minimum: int = 1) -> int:
    """A size in the config; the default if it is missing or null.

    Raises:
        KeyError: it is missing and there is no default.
        ValueError: it is not a whole number of at least `minimum`.
    """
    value = config[key] if default is None else config.get(key)
    if value is None:
        value = default
    if value is None or not is_whole(value) or not minimum <= value <= MAX_SIZE:
        raise ValueError(f"{key} is {shown(value)}, which is not a valid size")
    return int(value)


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number; old exports write some as floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or value.is_integer()  # NaN and Infinity are not


def labels(config: Config) -> tuple[str, ...]:
    """Names of the classes in the order of the logits.

    Raises:
        CheckpointError: id2label does not name the classes 0, 1, 2, …
    """
    named = config.get("id2label") or {}
    count = config.get("num_labels", 2)
    if not isinstance(named, dict) or not isinstance(count, int) or isinstance(count, bool):
        raise CheckpointError(
            f"config.json sets id2label = {shown(named)} and num_labels = {shown(count)}; they "
            "must be an object and a number"
        )
    if not named:
        return tuple(f"LABEL_{i}" for i in range(count))
    numbers = [str(i) for i in range(len(named))]
    if sorted(map(str, named)) != sorted(numbers):
        raise CheckpointError(
            f"config.json has the id2label keys {one_line(', '.join(map(str, named)))}; they must "
            "be 0, 1, 2, …"
        )
    by_number = {str(key): str(name) for key, name in named.items()}
    return tuple(by_number[number] for number in numbers)


def multi_label(config: Config) -> bool:
    """Whether classes do not exclude each other; if so, scores are sigmoids, not a softmax."""
    return config.get("problem_type") == "multi_label_classification"


def regression(config: Config) -> bool:
    """Whether the logits are values on a scale; if so, scores are the logits themselves."""
    return config.get("problem_type") == "regression"
