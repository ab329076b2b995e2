"""An engine serves the jobs that read its model in one way."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from corpora import GOLDENS

from pipeline.encoder.card import open_card
from pipeline.encoder.model.load import HeadOptions
from pipeline.planning.make_spec import sample_spec
from workers.engine_cache import EngineCache


def test_other_special_tokens_are_another_engine(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(GOLDENS / "bert_mean", model)
    cache = tmp_path / "cache"
    engines = EngineCache(cache)

    def engine() -> object:
        card = open_card(str(model), cache_dir=cache)
        spec = sample_spec(card, "embed", precision="auto", max_length=None)
        return engines.get(spec, "cpu")

    first, again = engine(), engine()
    (model / "special_tokens_map.json").write_text(json.dumps({"cls_token": "[MASK]"}))
    changed = engine()

    assert first is again
    assert changed is not first


class PlainEngine:
    """Loads nothing."""

    def __init__(self, *arguments: object, device: str, precision: str, cache_dir: object) -> None:
        self.device, self.precision = device, precision


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"dimensions": 8}, False),
        ({"dimensions": 8, "more_dimensions": (4,)}, False),
        ({"normalize": False}, False),
        ({"vectors": ("dense", "sparse")}, False),
        ({"sparse_top_k": 5}, False),
        ({"chunking": "late-chunk"}, False),
        ({"chunking": "chunk"}, True),
        ({"output_dtype": "int8"}, True),
    ],
)
def test_options_of_the_head_are_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], same: bool
) -> None:
    monkeypatch.setattr("pipeline.encoder.engine.Engine", PlainEngine)
    engines, card = EngineCache(tmp_path), open_card(str(GOLDENS / "bert_mean"), cache_dir=tmp_path)
    spec = sample_spec(card, "embed", precision="float32", max_length=None)
    first = engines.get(spec, "cpu", card)
    assert (engines.get(replace(spec, **change), "cpu", card) is first) == same


def test_whatever_an_engine_takes_of_a_job_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an option that only a later version has."""
    of = HeadOptions.of
    later = classmethod(lambda cls, spec, *given: replace(of(spec), dimensions=(spec.top_k or 1,)))
    monkeypatch.setattr("pipeline.encoder.engine.Engine", PlainEngine)
    monkeypatch.setattr(HeadOptions, "of", later)
    engines, card = EngineCache(tmp_path), open_card(str(GOLDENS / "bert_mean"), cache_dir=tmp_path)
    spec = sample_spec(card, "embed", precision="float32", max_length=None)
    first = engines.get(spec, "cpu", card)
    assert engines.get(replace(spec, top_k=2), "cpu", card) is not first


class CircularEngine:
    """As an engine with CUDA graphs: something that it holds refers to it."""

    alive: ClassVar[weakref.WeakSet[CircularEngine]] = weakref.WeakSet()
    most = 0

    def __init__(self, *arguments: object, device: str, precision: str, cache_dir: object) -> None:
        self.device, self.precision, self.itself = device, precision, self
        CircularEngine.most = max(CircularEngine.most, len(CircularEngine.alive))
        CircularEngine.alive.add(self)


def test_an_engine_is_gone_before_the_one_that_replaces_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.encoder.engine.Engine", CircularEngine)
    engines = EngineCache(tmp_path)
    card = open_card(str(GOLDENS / "bert_mean"), cache_dir=tmp_path)
    spec = sample_spec(card, "embed", precision="float32", max_length=None)
    gc.disable()
    try:
        for dimensions in range(1, 6):
            engines.get(replace(spec, dimensions=dimensions), "cpu", card)
    finally:
        gc.enable()
    assert CircularEngine.most == 1  # and the new one
