"""Resident encoders: a checkpoint is found, proved and loaded once, then serves many shards."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.encoder.engine import Engine

logger = logging.getLogger(__name__)

#: Encoders kept on a device: enough for two jobs that take turns, little enough to fit.
_RESIDENT = 2


class EngineCache:
    """The encoders of one process, the least recently used dropped first."""

    def __init__(self, cache_dir: Path | None) -> None:
        self._cache_dir = cache_dir
        self._engines: OrderedDict[tuple[object, ...], Engine] = OrderedDict()

    def get(self, spec: JobSpec, device: str) -> Engine:
        """The encoder a spec asks for, loaded on `device`.

        Raises:
            CheckpointError: the model cannot be found here, or is not the one of the spec.
        """
        from pipeline.encoder.engine import Engine  # torch: seconds to import, so not sooner

        skipped = spec.prompt if spec.encoder.get("include_prompt") is False else ""
        key = (
            *(spec.model, spec.task, spec.precision, spec.dimensions, spec.normalize),
            *(skipped, device),
        )
        if key in self._engines:
            self._engines.move_to_end(key)
            return self._engines[key]
        while len(self._engines) >= _RESIDENT:
            self._engines.popitem(last=False)
        checkpoint = proved_checkpoint(spec, self._cache_dir)
        logger.info("loading %s on %s", spec.model.name, device)
        engine = Engine(
            checkpoint,
            spec.task,
            device=device,
            precision=spec.precision,
            dimensions=spec.dimensions,
            normalize=spec.normalize,
            prompt_tokens=prompt_tokens(load_tokenizer(checkpoint), skipped) if skipped else 0,
        )
        self._engines[key] = engine
        return engine


def proved_checkpoint(spec: JobSpec, cache_dir: Path | None) -> Checkpoint:
    """The files of a spec's model, proved by hash to be the ones the job was submitted with.

    Raises:
        CheckpointError: the model is not here, or its weights, tokenizer or configuration differ.
    """
    model = spec.model
    checkpoint = resolve(model.name, model.revision or None, cache_dir=cache_dir)
    found = (checkpoint.sha256, checkpoint.fingerprint)
    if found != (model.sha256, model.fingerprint):
        what = "weights" if found[0] != model.sha256 else "tokenizer or configuration"
        raise CheckpointError(
            f"{model.name} here has other {what} than the job was submitted with "
            f"({checkpoint.sha256[:12]} here, {model.sha256[:12]} there)",
            hint="put the same checkpoint on every machine, or name it by hub name and --revision",
        )
    return checkpoint
