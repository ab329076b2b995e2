"""Resident encoders: a model is found, proved and loaded once, then serves many shards."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.encoder.engine import Engine

logger = logging.getLogger(__name__)

# Encoders kept on a device: enough for two jobs that take turns, little enough to fit.
_RESIDENT = 2


class EngineCache:
    """The encoders of one process, the least recently used dropped first.

    Args:
        cache_dir: of downloaded checkpoints; None for the default.
        cards: of models that this process read a moment ago.
    """

    def __init__(self, cache_dir: Path | None, cards: Iterable[ModelCard] = ()) -> None:
        self._cache_dir = cache_dir
        self._cards = {_content(card): card for card in cards}
        self._resident: list[tuple[JobSpec, Engine]] = []  # the least recently used first

    def get(self, spec: JobSpec, device: str) -> Engine:
        """The encoder a spec asks for, loaded on `device`.

        Raises:
            CheckpointError: the model cannot be found here, or is not the one of the spec.
        """
        for item in self._resident:
            if _serves(item, spec, device):
                self._resident.remove(item)
                break
        else:
            del self._resident[: len(self._resident) - _RESIDENT + 1]
            item = spec, self._load(spec, device)
        self._resident.append(item)
        return item[1]

    def _load(self, spec: JobSpec, device: str) -> Engine:
        from pipeline.encoder.engine import Engine  # torch: seconds to import, so not sooner

        # A card is given out once: by the next load, the files may be others.
        card = self._cards.pop((spec.model.sha256, spec.model.fingerprint), None)
        card = card or proved_card(spec, self._cache_dir)
        logger.info("loading %s on %s", spec.model.name, device)
        skipped = 0
        if spec.prompt and not card.modules.include_prompt:
            skipped = prompt_tokens(load_tokenizer(card), spec.prompt)
        return Engine(
            card,
            device=device,
            precision=spec.precision,
            dimensions=spec.dimensions,
            normalize=spec.normalize,
            prompt_tokens=skipped,
        )


def _serves(resident: tuple[JobSpec, Engine], spec: JobSpec, device: str) -> bool:
    """Whether a resident encoder is the one that a spec would load."""
    loaded, engine = resident
    same_prompt = loaded.prompt == spec.prompt or engine.card.modules.include_prompt
    return (
        engine.device == device
        and same_prompt
        and all(
            getattr(loaded, name) == getattr(spec, name)
            for name in ("model", "task", "precision", "dimensions", "normalize")
        )
    )


def proved_card(spec: JobSpec, cache_dir: Path | None) -> ModelCard:
    """The card of a job's model, proved to be what the job was submitted with.

    Raises:
        CheckpointError: the model is not here; its weights, tokenizer or configuration differ; or
            this version reads them differently.
    """
    model = spec.model
    card = open_card(model.name, model.revision or None, cache_dir=cache_dir)
    if _content(card) != (model.sha256, model.fingerprint):
        weights = card.checkpoint.sha256
        what = "weights" if weights != model.sha256 else "tokenizer or configuration"
        raise CheckpointError(
            f"{model.name} here has other {what} than the job was submitted with "
            f"({weights[:12]} here, {model.sha256[:12]} there)",
            hint="put the same checkpoint on every machine, or name it by hub name and --revision",
        )
    if card.identity() != spec.encoder:
        raise CheckpointError(
            f"this version of bei-jobs reads {model.name} differently than the one that submitted "
            "the job, so its values could differ",
            hint="run the same version of bei-jobs on every machine of the fleet",
        )
    return card


def _content(card: ModelCard) -> tuple[str, str]:
    return card.checkpoint.sha256, card.checkpoint.fingerprint
