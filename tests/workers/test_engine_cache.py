"""An engine serves the jobs that read its model in one way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from corpora import GOLDENS

from pipeline.encoder.card import open_card
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
