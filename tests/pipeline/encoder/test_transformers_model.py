"""Architectures that bei-jobs does not compute: left to transformers, or refused with a reason."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine
from foreign_models import make, save
from tokenizers import Tokenizer, processors

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import CheckpointError

Bent = Callable[..., Checkpoint]
LOGITS = "ForSequenceClassification"
TEXTS = [list(range(4, 4 + n)) for n in (30, 29, 12, 3, 30)]


def test_a_foreign_architecture_can_be_described_without_loading_it(
    tmp_path: Path, cache: Path
) -> None:
    card = fresh_card(resolve(str(save(make("DistilBert"), tmp_path / "saved")), cache_dir=cache))
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


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the token ids of every forward pass of a GPT-2 classifier."""
    from transformers import GPT2ForSequenceClassification

    seen: list[tuple[int, ...]] = []
    forward = GPT2ForSequenceClassification.forward

    @functools.wraps(forward)
    def spy(self: Any, input_ids: torch.Tensor, **inputs: torch.Tensor) -> Any:
        if input_ids.device.type != "meta":
            seen.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(GPT2ForSequenceClassification, "forward", spy)
    return seen


def test_texts_of_equal_length_are_computed_together_and_nothing_is_padded(
    shapes: list[tuple[int, ...]], tmp_path: Path, cache: Path, compute: Callable[..., list[Any]]
) -> None:
    checkpoint = resolve(str(save(make("GPT2", LOGITS), tmp_path / "saved")), cache_dir=cache)
    compute(open_engine(checkpoint), TEXTS)
    assert sorted(shapes) == [(1, 3), (1, 12), (1, 29), (2, 30)]


def test_a_group_whose_attention_would_be_too_large_is_computed_in_parts(
    shapes: list[tuple[int, ...]],
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = resolve(str(save(make("GPT2", LOGITS), tmp_path / "saved")), cache_dir=cache)
    engine, texts = open_engine(checkpoint), [TEXTS[0]] * 5
    whole = compute(engine, texts)
    limit = "pipeline.encoder.model.transformers_model._MAX_ATTENTION_ENTRIES"
    monkeypatch.setattr(limit, 2 * 4 * 30 * 30)
    parts = compute(engine, texts)
    assert shapes == [(5, 30), (2, 30), (2, 30), (1, 30)]
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)


def test_the_types_that_xlnets_tokenizer_gives_a_single_text_are_read(
    tmp_path: Path, cache: Path, compute: Callable[..., list[Any]]
) -> None:
    model = make("XLNet", LOGITS)
    folder = save(model, tmp_path / "saved")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=special,
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    text = tokenizer.encode("a a a").ids
    (row,) = compute(open_engine(resolve(str(folder), cache_dir=cache)), [text])
    with torch.inference_mode():
        typed = model(torch.tensor([text]), token_type_ids=torch.tensor([[0, 0, 0, 0, 2]])).logits[
            0
        ]
        untyped = model(torch.tensor([text])).logits[0]
    np.testing.assert_allclose(row, typed.numpy(), rtol=1e-5, atol=1e-5)
    assert not np.allclose(row, untyped.numpy(), atol=1e-3)


def test_nothing_bounds_a_text_where_the_config_says_less_than_one_position(
    tmp_path: Path, cache: Path
) -> None:
    folder = save(make("XLNet", LOGITS), tmp_path / "saved")
    card = fresh_card(resolve(str(folder), cache_dir=cache))
    assert card.positions is None


def test_a_config_of_a_far_larger_model_is_refused_before_its_weights_are_made(
    bent: Bent,
) -> None:
    sizes = {"num_hidden_layers": 400, "hidden_dim": 1000}
    checkpoint = bent("bert_mean", model_type="distilbert", **sizes)
    with pytest.raises(CheckpointError, match=r"describes 27,\d{3},\d{3} parameters, but the weig"):
        open_engine(checkpoint)
