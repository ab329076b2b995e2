"""tokenizer.json without its vocabulary: the steps that a text goes through, as written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.bounds import MAX_ADDED_TOKENS, MAX_STEPS
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, check_depth
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

Step = Mapping[str, Any]

# Stage → the key under which a Sequence lists its steps.
_NESTED = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
}


@dataclass(frozen=True, slots=True)
class TokenizerOutline:
    """The steps of each stage, those of sequences in a row, and the settings of the model."""

    normalizer: tuple[Step, ...]
    pre_tokenizer: tuple[Step, ...]
    post_processor: tuple[Step, ...]
    model: Mapping[str, Any]  # without vocab and merges
    added_tokens: tuple[Mapping[str, Any], ...]
    # Whether each added token has the id of its piece, or else the first one that is free.
    added_in_order: bool
    truncation: Mapping[str, Any]  # {} for none


def outline(content: Any, file: Path) -> TokenizerOutline:
    """The outline of a parsed tokenizer.json.

    Raises:
        CheckpointError: it is not an object, or has more steps or added tokens than any published.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object", hint=DOWNLOAD_AGAIN)
    added = content.get("added_tokens")
    added = added if isinstance(added, list) else []
    if len(added) > MAX_ADDED_TOKENS:
        raise CheckpointError(
            f"{file} has {len(added):,} added_tokens; at most {MAX_ADDED_TOKENS:,} are read",
            hint=DOWNLOAD_AGAIN,
        )
    stages = {}
    for stage, nested in _NESTED.items():
        check_depth(content.get(stage), file)
        stages[stage] = _steps(content.get(stage), nested, f"{file}: {stage}")
    model = content.get("model")
    settings = dict(model) if isinstance(model, dict) else {}
    vocabulary = settings.pop("vocab", None)
    settings.pop("merges", None)
    truncation = content.get("truncation")
    return TokenizerOutline(
        **stages,
        model=settings,
        added_tokens=tuple(token for token in added if isinstance(token, dict)),
        added_in_order=_in_order(added, vocabulary),
        truncation=dict(truncation) if isinstance(truncation, dict) else {},
    )


def _in_order(added: list[Any], vocabulary: Any) -> bool:
    """Whether adding the tokens one after another to the vocabulary gives the ids of the file."""
    if not isinstance(vocabulary, dict | list):
        return False
    free = len(vocabulary)
    for token in added:
        if not isinstance(token, dict) or not isinstance(number := token.get("id"), int):
            return False
        content = token.get("content")
        if isinstance(vocabulary, dict):
            piece = isinstance(content, str) and vocabulary.get(content) == number
        else:
            entry = vocabulary[number] if 0 <= number < len(vocabulary) else None
            piece = isinstance(entry, list) and entry[:1] == [content]
        if not piece and number != free:
            return False
        free += not piece
    return True


def _steps(stage: Any, nested: str, where: str) -> tuple[Step, ...]:
    """The steps of a stage in order."""
    waiting, steps = [stage] if stage else [], []
    while waiting:
        step = waiting.pop(0)
        if not isinstance(step, dict):
            raise CheckpointError(
                f"{where} holds {shown(step)}, which is not a step", hint=DOWNLOAD_AGAIN
            )
        inner = step.get(nested)
        if isinstance(inner, list):
            waiting[:0] = inner[: MAX_STEPS + 1]
        else:
            steps.append(step)
        if len(steps) + len(waiting) > MAX_STEPS:
            raise CheckpointError(
                f"{where} has more than {MAX_STEPS} steps; published tokenizers have at most 7",
                hint=DOWNLOAD_AGAIN,
            )
    return tuple(steps)
