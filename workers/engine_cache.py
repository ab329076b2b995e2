"""A cache of loaded engines: a model is verified and loaded once, then serves many shards."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError
from pipeline.spec import JobSpec
from pipeline.tasks import encoder_identity, find_task

if TYPE_CHECKING:
    from pipeline.encoder.engine import Engine

logger = logging.getLogger(__name__)

# Engines kept in memory: enough for two alternating jobs, few enough to fit on a device.
_RESIDENT = 2


class EngineCache:
    """The engines of one process; the least recently used is dropped first.

    Args:
        cache_dir: of downloaded checkpoints; None for the default.
    """

    def __init__(self, cache_dir: Path | None) -> None:
        self._cache_dir = cache_dir
        self._resident: list[tuple[JobSpec, Engine]] = []  # the least recently used first
        self._dropped = False  # an engine that may not be freed yet

    def get(self, spec: JobSpec, device: str, card: ModelCard | None = None) -> Engine:
        """The engine for a spec, loaded on `device`.

        Args:
            spec: of the job.
            device: a torch device.
            card: of the model, if it was just read and need not be read again.

        Raises:
            CheckpointError: the model cannot be found, or is not the one in the spec.
        """
        resident = next((each for each in self._resident if _serves(each, spec, device)), None)
        if resident is None:
            self._make_room()
            resident = spec, self._load(spec, device, card)
        else:
            self._resident.remove(resident)
        self._resident.append(resident)
        return resident[1]

    def drop(self, engine: Engine) -> None:
        """Forget an engine whose values are in doubt: the next job loads its weights again."""
        self._resident = [each for each in self._resident if each[1] is not engine]
        self._dropped = True

    def _make_room(self) -> None:
        """Drop the engines that another one displaces, and free the memory of all that are dropped.

        An engine and its CUDA graphs refer to each other: only the garbage collector frees them.
        """
        excess = len(self._resident) - _RESIDENT + 1
        if excess > 0 or self._dropped:
            del self._resident[: max(excess, 0)]
            self._dropped = False
            gc.collect()

    def _load(self, spec: JobSpec, device: str, given: ModelCard | None) -> Engine:
        from pipeline.encoder.engine import Engine  # torch takes seconds to import
        from pipeline.encoder.model.load import HeadOptions

        fits = given is not None and _content(given) == (spec.model.sha256, spec.model.fingerprint)
        card = given if given is not None and fits else verified_card(spec, self._cache_dir)
        logger.info("loading %s on %s", spec.model.name, device)
        skipped = 0
        if spec.prompt and not card.modules.include_prompt:
            skipped = prompt_tokens(load_tokenizer(card), spec.prompt)
        return Engine(
            card,
            HeadOptions.of(spec, skipped),
            device=device,
            precision=spec.precision,
            cache_dir=self._cache_dir,
        )


def _serves(resident: tuple[JobSpec, Engine], spec: JobSpec, device: str) -> bool:
    """Whether a resident engine is the one that `spec` would load."""
    from pipeline.encoder.model.load import HeadOptions  # torch takes seconds to import

    loaded_spec, engine = resident
    return (
        engine.device == device
        and (loaded_spec.prompt == spec.prompt or engine.card.modules.include_prompt)
        and spec.precision in (loaded_spec.precision, engine.precision)
        and HeadOptions.of(loaded_spec) == HeadOptions.of(spec)
        and all(
            getattr(loaded_spec, name) == getattr(spec, name)
            for name in ("model", "encoder", "task", "kind")
        )
    )


def verified_card(spec: JobSpec, cache_dir: Path | None) -> ModelCard:
    """The card of a job's model, verified to be the model that the job was submitted with.

    Raises:
        CheckpointError: the model cannot be found; its weights, tokenizer or configuration differ;
            or this version reads them differently.
    """
    model = spec.model
    card = open_card(model.name, model.revision or None, cache_dir=cache_dir, kind=spec.kind or "")
    if _content(card) != (model.sha256, model.fingerprint):
        weights = card.checkpoint.sha256
        what = "weights" if weights != model.sha256 else "tokenizer or configuration"
        raise CheckpointError(
            f"the {what} of {model.name} on this machine differ from what the job was submitted "
            f"with (weights {weights[:12]}, the job's {model.sha256[:12]})",
            hint="put the same checkpoint on every machine, or give a hub name and --revision",
        )
    if encoder_identity(find_task(spec.task), card, spec.vectors) != spec.encoder:
        raise CheckpointError(
            f"this version of bei-jobs reads {model.name} differently from the version that "
            "submitted the job, so results could differ",
            hint="run the same version of bei-jobs on every machine of the fleet",
        )
    return card


def _content(card: ModelCard) -> tuple[str, str]:
    return card.checkpoint.sha256, card.checkpoint.fingerprint
