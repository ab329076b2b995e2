"""Tiny checkpoints in every published layout, and fixtures that change and run them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.recognise import recognise
from pipeline.encoder.card import ModelCard, read_card
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.packing import gather, pack

Rows = np.ndarray[Any, np.dtype[np.float32]]


def fresh_card(checkpoint: Checkpoint) -> ModelCard:
    """The card of a checkpoint as its files are now: a test may have changed them."""
    return read_card(replace(checkpoint, files=CheckpointFiles(checkpoint.path)))


def open_engine(checkpoint: Checkpoint, **options: Any) -> Engine:
    """An engine of a checkpoint, with the options of `HeadOptions` and `Engine`."""
    names = {field.name for field in fields(HeadOptions)} & options.keys()
    of_head = {name: options.pop(name) for name in names}
    if isinstance(of_head.get("dimensions"), int):
        of_head["dimensions"] = (of_head["dimensions"],)
    return Engine(fresh_card(checkpoint), HeadOptions(**of_head), **options)


def recognised(checkpoint: Checkpoint) -> EncoderConfig | None:
    """The settings of a checkpoint whose family bei-jobs knows."""
    found = recognise(checkpoint, CheckpointFiles(checkpoint.path).tensors)
    return found.config if found else None


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where fetched checkpoints go."""
    return tmp_path / "cache"


@pytest.fixture
def golden(cache: Path) -> Callable[[str], Checkpoint]:
    """A golden checkpoint by the name of its directory."""
    return lambda name: resolve(str(GOLDENS / name), cache_dir=cache)


@pytest.fixture
def bent(tmp_path: Path, cache: Path) -> Callable[..., Checkpoint]:
    """A copy of a golden whose config.json is changed; None removes a key."""

    def bend(name: str, **changes: Any) -> Checkpoint:
        path = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(GOLDENS / name, path)
        file = path / "config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return resolve(str(path), cache_dir=cache)

    return bend


@pytest.fixture
def compute() -> Callable[..., list[Rows]]:
    """Run sequences of token ids through an engine; rows in the order of the sequences."""

    def run(
        engine: Engine,
        sequences: Sequence[Sequence[int]],
        type_ids: Sequence[Sequence[int]] | None = None,
        *,
        token_budget: int = 512,
        per_token: bool = False,
    ) -> list[Rows]:
        lengths = np.array([len(s) for s in sequences])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.array([i for s in sequences for i in s], np.int32)
        types = None
        if type_ids is not None:
            types = np.array([i for s in type_ids for i in s], np.int8)
        batches = [gather(flat, offsets, b, types) for b in pack(lengths, token_budget)]
        rows: list[Rows] = [np.empty(0, np.float32)] * len(sequences)
        for batch, out in engine.run(batches):
            for i, sequence in enumerate(batch.sequences):
                bounds = slice(batch.cu_seqlens[i], batch.cu_seqlens[i + 1])
                rows[sequence] = out[bounds] if per_token else out[i]
        return rows

    return run


@pytest.fixture
def sentences() -> Callable[[int, int], list[list[int]]]:
    """Random token ids of lengths 3 … longest, the same every time."""

    def make(count: int, longest: int) -> list[list[int]]:
        rng = np.random.default_rng(7)
        lengths = rng.integers(3, longest + 1, count)
        return [rng.integers(5, 400, n).tolist() for n in lengths]

    return make
