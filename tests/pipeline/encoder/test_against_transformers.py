"""Hidden states against transformers in eager mode, where a golden does not reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.attention import alibi_slopes, group_equal_lengths, relative_buckets

LONG = 700  # tokens, twenty windows of the goldens
LINEAR = {"rope_type": "linear", "factor": 2.0}
BY_KIND = {
    "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 70_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
}

Bent = Callable[..., Checkpoint]


def _reference(checkpoint: Checkpoint, ids: list[int]) -> Any:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        checkpoint.path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("modernbert_cls", {}),
        ("embeddinggemma", {}),
        ("embeddinggemma", {"use_bidirectional_attention": False}),
        (
            "gte_qwen2",
            {
                "is_causal": True,
                "use_sliding_window": True,
                "sliding_window": 32,
                "max_window_layers": 1,
            },
        ),
        ("modernbert_cls", {"rope_scaling": LINEAR}),
        ("modernbert_cls", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("modernbert_cls", {"rope_scaling": LINEAR, "rope_parameters": BY_KIND}),
        ("embeddinggemma", {"rope_scaling": LINEAR}),
        ("embeddinggemma", {"rope_scaling": LINEAR, "rope_parameters": BY_KIND}),
    ],
    ids=[
        "modernbert",
        "gemma",
        "causal gemma",
        "qwen2 with windows",
        "scaled modernbert",
        "modernbert with the old key",
        "modernbert with both",
        "scaled gemma",
        "gemma with both",
    ],
)
def test_a_text_longer_than_the_window_equals_transformers_token_by_token(
    name: str, changes: dict[str, Any], bent: Bent
) -> None:
    checkpoint = bent(name, **changes)
    ids = np.random.default_rng(3).integers(5, 400, LONG).tolist()
    engine = open_engine(checkpoint, normalize=False)
    assert any(window is not None and window < LONG for window in engine.config.windows)
    expected = _reference(checkpoint, ids)
    got = _hidden(engine, ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "qwen3_causal_last",
            {
                "rope_scaling": LINEAR,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0},
            },
        ),
        ("qwen3_causal_last", {"rope_theta": None}),
        ("arctic_gte", {"rope_theta": None}),
        ("arctic_gte", {"rope_theta": None, "rope_scaling": LINEAR}),
    ],
    ids=["both keys", "no base", "gte without a base", "scaled gte without a base"],
)
def test_rotary_settings_are_read_as_transformers_reads_them(
    name: str, changes: dict[str, Any], bent: Bent
) -> None:
    checkpoint = bent(name, **changes)
    ids = np.random.default_rng(3).integers(5, 400, 200).tolist()
    got = _hidden(open_engine(checkpoint), ids)
    np.testing.assert_allclose(got, _reference(checkpoint, ids), rtol=0, atol=1e-4)


def _hidden(engine: Engine, ids: list[int]) -> Any:
    """Hidden states between short neighbours, which must not show."""
    from pipeline.encoder.model.packed_batch import PackedBatch

    neighbours = [9, 8, 7]
    flat = torch.tensor(neighbours + ids + neighbours, dtype=torch.int32)
    offsets = [0, 3, 3 + len(ids), 6 + len(ids)]
    packed = PackedBatch(flat, torch.tensor(offsets, dtype=torch.int32), offsets, len(ids), None)
    engine.forward.reads = "all"
    with torch.inference_mode():
        return engine.forward(packed)[3:-3].numpy()


@pytest.mark.parametrize("name", ["mpnet_mean", "roberta_mean", "bert_mean"])
def test_a_text_that_holds_the_padding_token_equals_transformers(name: str, bent: Bent) -> None:
    # RoBERTa's positions skip padding, and a text may spell "<pad>".
    checkpoint = bent(name)
    ids = [6, 7, 1, 1, 8, 9, 1, 10]
    got = _hidden(open_engine(checkpoint), ids)
    np.testing.assert_allclose(got, _reference(checkpoint, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        ("gte_qwen2", False),
        ("voyage_nano", False),
        ("nemotron_llama", False),
        ("embeddinggemma", False),
        ("qwen3_causal_last", True),
    ],
)
def test_the_first_token_sees_the_last_unless_the_model_is_causal(
    name: str, causal: bool, bent: Bent
) -> None:
    engine = open_engine(bent(name))
    one, other = _hidden(engine, [6, 7, 8, 9]), _hidden(engine, [6, 7, 8, 300])
    assert (np.abs(one[0] - other[0]).max() == 0) == causal


def test_relative_buckets_are_those_of_transformers() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distance = torch.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(distance, num_buckets=32)
    assert torch.equal(relative_buckets(distance, 32), expected)


def test_alibi_slopes_halve_for_a_power_of_two_and_interleave_otherwise() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    twelve = alibi_slopes(12)
    assert torch.equal(twelve[:8], alibi_slopes(8))
    assert twelve[8:].tolist() == alibi_slopes(16)[::2][:4].tolist()


def test_neighbours_of_equal_length_share_a_group_and_empty_ones_have_none() -> None:
    groups = group_equal_lengths([0, 4, 8, 8, 12, 15, 15])
    sizes = [(group.start, group.stop, group.length, group.count) for group in groups]
    assert sizes == [(0, 12, 4, 3), (12, 15, 3, 1)]


@pytest.mark.parametrize("name", ["jina_en", "mpnet_mean"])
def test_a_biased_text_too_long_for_one_mask_is_attended_to_in_tiles(
    name: str, bent: Bent, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = bent(name)
    ids = np.random.default_rng(3).integers(5, 400, 200).tolist()
    whole = _hidden(open_engine(checkpoint), ids)
    monkeypatch.setattr("pipeline.encoder.model.attention.MAX_MASK_ENTRIES", 4 * 200 * 7)
    np.testing.assert_allclose(_hidden(open_engine(checkpoint), ids), whole, atol=1e-5)
