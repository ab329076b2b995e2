"""Fixed shapes: what graphs compute, computed here on a CPU without a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.graph_shapes import GraphShape, fill, gpu_tokens, shape_for
from pipeline.encoder.model.packed_batch import pack_batch
from pipeline.packing import Batch, gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())


def _batch(lengths: list[int], types: bool = False) -> Batch:
    rng = np.random.default_rng(3)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(5, 400, offsets[-1]).astype(np.int32)
    type_ids = rng.integers(0, 2, offsets[-1]).astype(np.int8) if types else None
    return gather(ids, offsets, np.arange(len(lengths)), type_ids)


@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=80),
    limit=st.one_of(st.none(), st.just(700)),
)
def test_every_token_of_a_shape_belongs_to_a_sequence_no_longer_than_it_may_be(
    lengths: list[int], limit: int | None
) -> None:
    batch = _batch(lengths)
    shape = shape_for(batch.tokens, batch.max_seqlen, len(batch), limit)
    if shape is None:
        return
    filled = fill(batch, shape)
    assert filled.ids.shape == (shape.tokens,)
    assert filled.cu_seqlens.shape == (shape.sequences + 1,)
    assert filled.cu_seqlens[0] == 0
    assert filled.cu_seqlens[-1] == shape.tokens  # no row is left for nobody to write
    sizes = np.diff(filled.cu_seqlens)
    assert sizes.min() >= 0
    assert sizes.max() <= shape.max_seqlen <= (limit or shape.max_seqlen)
    np.testing.assert_array_equal(sizes[: len(lengths)], lengths)
    np.testing.assert_array_equal(filled.ids[: batch.tokens], batch.ids)


@given(length=st.integers(8, 1024), count=st.integers(1, 400))
def test_batches_of_equal_lengths_always_have_a_shape_and_waste_little(
    length: int, count: int
) -> None:
    shape = shape_for(length * count, length, count)
    assert shape is not None
    assert shape.tokens <= max(256, length * count * 9 / 8 + 1)


def test_batches_that_fill_a_budget_of_one_length_share_one_shape() -> None:
    shapes = {shape_for(16_384 - spare, 100, 165) for spare in range(0, 100)}
    assert shapes == {GraphShape(16_384, 128, 1024)}


def test_many_sequences_that_are_short_beside_the_longest_have_no_shape() -> None:
    assert shape_for(16_384, 8192, 4000) is None


@pytest.mark.parametrize("wrong", ["tokens", "length", "sequences"])
def test_a_batch_is_never_forced_into_a_shape(wrong: str) -> None:
    shapes = {
        "tokens": GraphShape(256, 512, 64),
        "length": GraphShape(512, 128, 64),
        "sequences": GraphShape(512, 512, 2),
    }
    with pytest.raises(ValueError, match="do not fit"):
        fill(_batch([200, 150, 50]), shapes[wrong])


@pytest.mark.parametrize("name", NAMES)
def test_a_filled_batch_gives_the_rows_of_the_batch_alone(
    name: str, golden: Callable[[str], Checkpoint]
) -> None:
    checkpoint = golden(name)
    engine = open_engine(checkpoint)
    types = engine.config.token_types > 1
    batch = _batch([70, 41, 33, 12, 12, 3, 1], types)
    shape = shape_for(batch.tokens, batch.max_seqlen, len(batch), engine.config.max_length)
    assert shape is not None
    assert shape.tokens > batch.tokens
    ((_, expected),) = engine.run([batch])
    filled = fill(batch, shape)
    with torch.inference_mode():
        rows = engine.outputs(pack_batch(filled, torch.device("cpu"))).numpy()
        # What the dummies hold must not matter.
        ids = filled.ids.copy()
        ids[batch.tokens :] = 7
        other = replace(filled, ids=ids)
        again = engine.outputs(pack_batch(other, torch.device("cpu"))).numpy()
    count = batch.tokens if engine.per_token else len(batch)
    np.testing.assert_allclose(rows[:count], expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(again[:count], rows[:count], rtol=0, atol=2e-5)


def test_less_memory_means_fewer_tokens(golden: Callable[[str], Checkpoint]) -> None:
    config = replace(
        open_engine(golden("gte_qwen2")).config,
        hidden_size=3584, intermediate_size=18_944, heads=28, kv_heads=4, head_dim=128,
    )  # fmt: skip
    budgets = [gpu_tokens(config, gib * 2**30, 2) for gib in (0, 1, 4, 120)]
    assert budgets == sorted(budgets)
    assert budgets[0] == 1024
    assert budgets[1] < 16_384 == budgets[-1]
