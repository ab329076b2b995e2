"""The last layer ends with the tokens that the head reads, and nobody can tell from the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixtures_encoder import open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.heads import pool

Golden = Callable[[str], Checkpoint]
Bent = Callable[..., Checkpoint]
Make = Callable[[int, int], list[list[int]]]

FIRST = [
    "arctic_gte",
    "mpnet_cls_dot",
    "gte_new_ntk",
    "modernbert_cls",
    "bge_reranker_xlmr",
    "gte_new_reranker",
    "go_emotions_roberta",
    "langid_xlmr",
]
LAST = ["gte_qwen2", "qwen3_causal_last"]
ALL = ["bert_mean", "embeddinggemma", "voyage_nano", "modernbert_reranker", "ner_bert"]


def _engine(checkpoint: Checkpoint) -> Engine:
    return open_engine(checkpoint)


@pytest.mark.parametrize(
    ("name", "reads"),
    [(name, reads) for reads, names in (("first", FIRST), ("last", LAST)) for name in names],
)
def test_one_token_a_sequence_is_enough(
    name: str, reads: str, golden: Golden, compute: Callable[..., list[Any]], sentences: Make
) -> None:
    engine = _engine(golden(name))
    assert engine.head.reads == reads
    texts = [*sentences(40, 60), [7], [8], [9]]
    found = compute(engine, texts)
    seen = _rows_of_the_last_product(engine)
    compute(engine, texts, token_budget=10_000)
    assert seen == [len(texts)]
    # The same, from every token's hidden state after the last layer.
    engine.forward.reads = engine.head.reads = "all"
    mode = "cls" if reads == "first" else "lasttoken"
    head = engine.head

    def from_all(hidden: Any, batch: Any) -> Any:
        head.reads = reads
        try:
            return head(pool(hidden, batch, mode), batch)
        finally:
            head.reads = "all"

    engine.head = from_all
    expected = compute(engine, texts)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=2e-6)


def _rows_of_the_last_product(engine: Engine) -> list[int]:
    """Filled with the number of rows that the last layer's last product is asked for."""
    name = f"layers.{engine.config.layers - 1}.down"
    product, seen = engine.forward.linears[name], []

    def spy(x: Any, *args: Any, **options: Any) -> Any:
        seen.append(x.shape[0])
        return product(x, *args, **options)

    engine.forward.linears[name] = spy
    return seen


@pytest.mark.parametrize("name", ALL)
def test_what_is_pooled_or_tagged_reads_every_token(
    name: str, golden: Golden, compute: Callable[..., list[Any]], sentences: Make
) -> None:
    engine = _engine(golden(name))
    assert engine.head.reads == "all"
    texts = sentences(9, 30)
    seen = _rows_of_the_last_product(engine)
    compute(engine, texts, token_budget=10_000, per_token=name.startswith("ner"))
    assert seen == [sum(len(text) for text in texts)]


def test_a_prompt_left_out_of_pooling_moves_the_first_token(
    bent: Bent, compute: Callable[..., list[Any]], sentences: Make
) -> None:
    checkpoint = bent("arctic_gte")
    assert open_engine(checkpoint, prompt_tokens=3).head.reads == "first"  # it counts there
    file = checkpoint.path / "1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "include_prompt": False}))
    engine = open_engine(checkpoint, prompt_tokens=3, normalize=False)
    assert engine.head.reads == "all"
    (text,) = sentences(1, 30)
    (row,) = compute(engine, [text])
    engine.forward.reads = "all"
    hidden: list[Any] = []
    engine.head = lambda states, batch: hidden.append(states) or states[:1]
    compute(engine, [text])
    np.testing.assert_allclose(row, hidden[0][3], rtol=0, atol=1e-6)
