"""A model as the user names it: its files, what they resolve to, and a spec to try it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.encoder.architecture.recognise import recognise
from pipeline.encoder.card import describe, tasks_of
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.spec import JobSpec, ModelIdentity

_DEFAULT_MAX_LENGTH = 512


def resolve_model(
    model: str, revision: str | None, task: str | None, cache_dir: Path
) -> tuple[Checkpoint, dict[str, Any]]:
    """The files of a model and what they resolve to, for `task` or the first task it can do.

    Raises:
        CheckpointError: it is not to be had, or does not fit the task.
    """
    checkpoint = resolve(model, revision, cache_dir=cache_dir)
    chosen = task or tasks_of(checkpoint.config, recognise(checkpoint))[0]
    return checkpoint, describe(checkpoint, chosen)


def identity(checkpoint: Checkpoint) -> ModelIdentity:
    """Which weights, exactly, for a spec."""
    return ModelIdentity(
        checkpoint.name, checkpoint.revision, checkpoint.sha256, checkpoint.fingerprint
    )


def sample_spec(
    checkpoint: Checkpoint, facts: dict[str, Any], *, precision: Any, max_length: int | None
) -> JobSpec:
    """A spec that runs a sample with the model's own settings."""
    return JobSpec(
        task=facts["task"],
        model=identity(checkpoint),
        encoder=facts,
        max_length=max_length or facts.get("max_length") or _DEFAULT_MAX_LENGTH,
        precision=precision,
    )
