"""A row's result does not depend on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from corpora import GOLDENS
from fixtures_encoder import open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.engine import Engine
from pipeline.packing import gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())
TOLERANCE = 1e-5

Make = Callable[[int, int], list[list[int]]]


def _engine(checkpoint: Checkpoint, precision: str = "float32") -> Engine:
    return open_engine(checkpoint, precision=precision)


def _scale(rows: list[Any]) -> float:
    return max(1.0, *(float(np.abs(row).max()) for row in rows))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_gives_the_same_alone_among_fifty_and_in_another_order(
    name: str,
    precision: str,
    golden: Callable[[str], Checkpoint],
    compute: Callable[..., list[Any]],
    sentences: Make,
) -> None:
    engine = _engine(golden(name), precision)
    tagging = engine.config.head == "tokens"
    texts = sentences(51, 150)
    together = compute(engine, texts, token_budget=100_000, per_token=tagging)
    alone = compute(engine, texts, token_budget=1, per_token=tagging)
    backwards = compute(engine, texts[::-1], token_budget=700, per_token=tagging)[::-1]
    tolerance = TOLERANCE * _scale(alone)
    for one, among, other in zip(alone, together, backwards, strict=True):
        np.testing.assert_allclose(among, one, rtol=0, atol=tolerance)
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("ner_")])
def test_a_boundary_one_token_off_changes_both_neighbours(
    name: str, golden: Callable[[str], Checkpoint], sentences: Make
) -> None:
    # What the test above would see if packing leaked: without this it could be blind.
    engine = _engine(golden(name))
    texts = sentences(6, 60)
    flat = np.array([i for text in texts for i in text], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
    right = gather(flat, offsets, np.arange(6))
    offsets[3] += 1
    wrong = gather(flat, offsets, np.arange(6))
    ((_, expected),) = engine.run([right])
    ((_, got),) = engine.run([wrong])
    change = np.abs(got - expected).reshape(6, -1).max(axis=1)
    assert (change[[2, 3]] > 10 * TOLERANCE).all()
    assert (change[[0, 1, 4, 5]] < TOLERANCE * _scale(list(expected))).all()


def test_a_batch_out_of_length_order_is_computed_all_the_same(
    golden: Callable[[str], Checkpoint], compute: Callable[..., list[Any]], sentences: Make
) -> None:
    engine = _engine(golden("mpnet_mean"))
    texts = sentences(9, 40)
    flat = np.array([i for text in texts for i in text], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
    ((_, rows),) = engine.run([gather(flat, offsets, np.arange(9))])
    np.testing.assert_allclose(rows, compute(engine, texts), rtol=0, atol=TOLERANCE)
