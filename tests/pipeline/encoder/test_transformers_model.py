"""Architectures that bei-jobs does not compute: left to transformers, or refused with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import CheckpointError

Bent = Callable[..., Checkpoint]
TEXTS = [list(range(4, 4 + n)) for n in (30, 29, 12, 3, 30)]

SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def _models() -> dict[str, tuple[str, dict[str, Any], str]]:
    """Name → class of transformers, its config, the task."""
    return {
        "distilbert": (
            "DistilBertModel",
            {"vocab_size": 400, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
            "embed",
        ),
        "t5": (
            "T5EncoderModel",
            {
                "vocab_size": 400,
                "d_model": 32,
                "num_layers": 2,
                "num_heads": 4,
                "d_kv": 8,
                "d_ff": 64,
            },
            "embed",
        ),
        "electra": ("ElectraForTokenClassification", {**SMALL, "embedding_size": 32}, "tag"),
        "albert": (
            "AlbertForSequenceClassification",
            {**SMALL, "embedding_size": 32, "num_labels": 1},
            "rerank",
        ),
        "qwen2 with a classifier": (
            "Qwen2ForSequenceClassification",
            {**SMALL, "num_key_value_heads": 2, "num_labels": 3, "pad_token_id": 0},
            "classify",
        ),
    }


def _save(name: str, path: Path) -> tuple[Any, str]:
    import transformers

    kind, settings, task = _models()[name]
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**settings)).eval()
    model.save_pretrained(path)
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", path)
    return model, task


@pytest.mark.parametrize("name", list(_models()))
def test_a_foreign_architecture_gives_what_transformers_gives_text_by_text(
    name: str,
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, task = _save(name, tmp_path / "saved")
    engine = open_engine(resolve(str(tmp_path / "saved"), cache_dir=cache))
    rows = compute(engine, TEXTS, per_token=task == "tag")
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([text]))
        expected = out.last_hidden_state[0].mean(0) if task == "embed" else out.logits[0]
        np.testing.assert_allclose(row, expected.squeeze().numpy(), rtol=0, atol=1e-5)
    assert "bei-jobs does not know" in caplog.text


def test_a_foreign_architecture_can_be_described_without_loading_it(
    tmp_path: Path, cache: Path
) -> None:
    _save("distilbert", tmp_path / "saved")
    card = fresh_card(resolve(str(tmp_path / "saved"), cache_dir=cache))
    assert card.config.family == "transformers/distilbert"
    assert card.dimensions == 32


def test_code_of_the_checkpoints_own_is_refused_and_the_alternative_named(bent: Bent) -> None:
    checkpoint = bent(
        "bert_mean",
        model_type="nvembed",
        architectures=["NVEmbedModel"],
        auto_map={"AutoModel": "modeling_nvembed.NVEmbedModel"},
    )
    with pytest.raises(CheckpointError, match="never runs remote code") as caught:
        open_engine(checkpoint)
    assert "nvidia/llama-embed-nemotron-8b" in caught.value.hint


def test_a_model_type_that_nobody_knows_is_refused(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match="transformers does not know it either"):
        open_engine(bent("bert_mean", model_type="nonsense"))


def test_weights_that_transformers_would_leave_random_are_refused(bent: Bent) -> None:
    # DistilBERT's names are not BERT's: every tensor would be missing.
    with pytest.raises(CheckpointError, match=r"missing: .*left over: "):
        open_engine(bent("bert_mean", model_type="distilbert"))


def test_a_sequence_longer_than_its_neighbours_is_padded_in_a_group_of_its_own() -> None:
    from pipeline.encoder.model.transformers_model import group_similar_lengths

    assert list(group_similar_lengths([0, 100, 199, 210, 214])) == [(0, 2), (2, 4)]


def test_a_config_of_a_far_larger_model_is_refused_before_its_weights_are_made(
    bent: Bent,
) -> None:
    sizes = {"num_hidden_layers": 400, "hidden_dim": 1000}
    checkpoint = bent("bert_mean", model_type="distilbert", **sizes)
    with pytest.raises(CheckpointError, match=r"describes 27,\d{3},\d{3} parameters, but the weig"):
        open_engine(checkpoint)
