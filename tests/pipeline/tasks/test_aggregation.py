"""The five strategies against transformers' own pipeline, on texts and logits of every kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from task_rows import LABELS, TOKENIZERS, finish, table

from pipeline.tasks import Task

STRATEGIES = ("none", "simple", "first", "average", "max")

WORDS = st.sampled_from(
    ["Angela", "merkel", "visited", "Paris.", "x", "e\u0301clair", "\U0001f600", "naïve", "日本語",
     "[UNK]", "<unk>", "[SEP]", "</s>", "U.S.A.", "\u200b", "\n", "  ", "O'Neil", "ﬁ", "\U00020000"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=12).flatmap(
    lambda words: st.sampled_from(["", " "]).map(lambda glue: glue.join(words))
)


@cache
def reference(name: str) -> Any:
    """transformers' pipeline around a tokenizer, without a model."""
    from transformers import PreTrainedTokenizerFast, TokenClassificationPipeline

    file = GOLDENS / name / "tokenizer.json"
    unknown = "[UNK]" if name == "ner_bert" else "<unk>"
    made = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    made.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), unk_token=unknown)
    made.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
    return made


def expected(name: str, text: str, logits: Any, ids: list[int], strategy: str) -> Any:
    from transformers.pipelines.token_classification import AggregationStrategy

    made = reference(name)
    read = made.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert read["input_ids"] == ids
    outputs = {
        "logits": torch.tensor(logits)[None],
        "sentence": text,
        "input_ids": torch.tensor(ids)[None],
        "offset_mapping": torch.tensor(read["offset_mapping"])[None],
        "special_tokens_mask": torch.tensor(read["special_tokens_mask"])[None],
    }
    return made.postprocess([outputs], AggregationStrategy(strategy))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(text="", seed=0)
@example(text="a\u0301 \U0001f600\U0001f600 b", seed=1)
@example(text="日本 \U00020000", seed=2)
@given(text=TEXTS, seed=st.integers(0, 2**16))
def test_a_strategy_gives_what_transformers_gives(
    make: Callable[..., Task], name: str, strategy: str, text: str, seed: int
) -> None:
    task = make("tag", name, aggregation=strategy)
    rows = table(text=["before", text, "after"])
    tokens = task.tokenize(rows)
    # Few levels, so that scores tie and neighbours agree often.
    logits = np.random.default_rng(seed).integers(0, 3, (len(tokens.ids), len(LABELS)))
    result = finish(task, rows, tokens, logits)[1]
    second_row = tokens.token_rows == 1
    wanted = expected(
        name, text, logits[second_row].astype(np.float32), tokens.ids[second_row].tolist(), strategy
    )
    if strategy == "none":
        positions = [(t["label"], t["start"], t["end"], t["token"]) for t in result["tokens"]]
        assert positions == [(t["entity"], t["start"], t["end"], t["word"]) for t in wanted]
        scores = [t["score"] for t in result["tokens"]]
    else:
        positions = [(e["entity"], e["start"], e["end"], e["text"]) for e in result["entities"]]
        assert positions == [
            (e["entity_group"], e["start"], e["end"], text[e["start"] : e["end"]]) for e in wanted
        ]
        scores = [e["score"] for e in result["entities"]]
    np.testing.assert_allclose(scores, [e["score"] for e in wanted], atol=1e-6)
