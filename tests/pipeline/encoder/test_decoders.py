"""Mistral, and Gemma 3 whose settings are nested, against transformers in eager mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine, recognised

from pipeline.encoder.architecture.llama import GEMMA3_TEXT
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import CheckpointError

Compute = Callable[..., list[Any]]
Make = Callable[[int, int], list[list[int]]]

_OLD_NAMES = ("language_model.", "language_model.model.")
_NAMES: dict[str, Callable[[str], str]] = {
    "Gemma3Model": str,
    "Gemma3ForConditionalGeneration": lambda name: f"model.{name}",
    "older Gemma3ForConditionalGeneration": lambda name: name.replace(*_OLD_NAMES),
}


@pytest.fixture
def mistral(tmp_path: Path, cache: Path) -> Callable[..., Checkpoint]:
    """The layout with a config that is changed."""

    def write(**changes: Any) -> Checkpoint:
        folder = layouts.mistral(tmp_path / f"mistral-{len(list(tmp_path.iterdir()))}", **changes)
        return resolve(str(folder), cache_dir=cache)

    return write


@pytest.fixture
def gemma(tmp_path: Path, cache: Path) -> Callable[..., Checkpoint]:
    """A nested Gemma whose tensors are renamed; see `layouts`."""
    return lambda *rename, **options: resolve(
        str(layouts.gemma3_nested(tmp_path / "gemma", *rename, **options)), cache_dir=cache
    )


def last_or_mean(path: Path, texts: list[list[int]], *, last: bool) -> Any:
    """Vectors of transformers, one text at a time."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
    rows = []
    with torch.inference_mode():
        for ids in texts:
            hidden = model.eval()(input_ids=torch.tensor([ids])).last_hidden_state[0]
            rows.append(
                torch.nn.functional.normalize(hidden[-1] if last else hidden.mean(0), dim=0)
            )
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sliding_window": None},
        {"sliding_window": "absent"},
        {"architectures": ["MistralForCausalLM"], "head_dim": None, "sliding_window": 7},
    ],
    ids=["windows", "no windows", "the default window", "another class"],
)
def test_a_mistral_gives_what_transformers_gives(
    changes: dict[str, Any], mistral: Callable[..., Checkpoint], compute: Compute, sentences: Make
) -> None:
    checkpoint = mistral(**changes)
    texts = [*sentences(6, 30), *sentences(3, 150)]
    engine = open_engine(checkpoint)
    expected = last_or_mean(checkpoint.path, texts, last=True)
    np.testing.assert_allclose(compute(engine, texts), expected, rtol=0, atol=1e-5)
    alone = compute(engine, texts, token_budget=1)
    backwards = compute(engine, texts[::-1], token_budget=500)[::-1]
    np.testing.assert_allclose(backwards, alone, rtol=0, atol=1e-5)


def test_a_mistral_takes_the_defaults_of_transformers(mistral: Callable[..., Checkpoint]) -> None:
    absent = dict.fromkeys(("sliding_window", "num_key_value_heads"), "absent")
    encoder = recognised(mistral(**absent, num_attention_heads=16))
    assert encoder is not None
    assert (encoder.kv_heads, encoder.causal) == (8, True)
    assert set(encoder.windows) == {4095}


@pytest.mark.parametrize("images", [True, False], ids=["with a vision tower", "text only"])
@pytest.mark.parametrize("kind", list(_NAMES))
def test_a_gemma_of_nested_settings_gives_what_transformers_gives(
    kind: str,
    images: bool,
    gemma: Callable[..., Checkpoint],
    compute: Compute,
    sentences: Make,
    tmp_path: Path,
) -> None:
    checkpoint = gemma(_NAMES[kind], images=images)
    texts = sentences(4, 120)
    engine = open_engine(checkpoint, normalize=True)
    assert {30, 31} & set(engine.config.windows)
    whole = layouts.gemma3_nested(tmp_path / "whole")  # transformers needs the vision tower
    expected = last_or_mean(whole, texts, last=False)
    np.testing.assert_allclose(compute(engine, texts), expected, rtol=0, atol=1e-5)
    unused = fresh_card(checkpoint).unused_tensors
    assert all("vision_tower" in name or "multi_modal_projector" in name for name in unused)
    assert bool(unused) == images


def test_what_a_nested_gemma_leaves_out_is_what_transformers_assumes() -> None:
    from transformers import Gemma3TextConfig

    assumed = Gemma3TextConfig()
    assert {name: getattr(assumed, name) for name in GEMMA3_TEXT} == GEMMA3_TEXT


def test_a_bidirectional_gemma_with_nested_settings_is_refused_with_the_reason(
    gemma: Callable[..., Checkpoint],
) -> None:
    checkpoint = gemma()
    _change(checkpoint, lambda config: config["text_config"].update(use_bidirectional_attention=1))
    with pytest.raises(CheckpointError, match="transformers ignores there") as caught:
        fresh_card(checkpoint)
    assert "gemma3_text" in caught.value.hint


def test_another_nested_text_model_is_named_not_misread(gemma: Callable[..., Checkpoint]) -> None:
    checkpoint = gemma()
    _change(checkpoint, lambda config: config.update(model_type="qwen3_vl"))
    with pytest.raises(
        CheckpointError, match="a qwen3_vl, whose text model is nested in text_conf"
    ):
        fresh_card(checkpoint)


def _change(checkpoint: Checkpoint, change: Callable[[dict[str, Any]], Any]) -> None:
    file = checkpoint.path / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
