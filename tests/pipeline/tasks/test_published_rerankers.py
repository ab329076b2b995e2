"""Rerankers that are published as language models, against their authors' own code.

The two reference functions restate what the model card of Qwen3-Reranker and the package
mxbai-rerank 0.1.6 compute, one pair at a time, with transformers in eager mode.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_rerankers import CHAT_TEMPLATE, Pair, by_us, save_decoder, scores_by_us
from tiny_rerankers import TEXTS as SHORT

from pipeline.encoder.card import open_card
from pipeline.errors import BeiJobsError

TOLERANCE = 2e-5
# The last one is longer than the model's positions.
TEXTS = (*SHORT[:5], ("a query that is long " * 12, "the document is relevant " * 200))
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@cache
def _loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, padding_side="left")


def _difference(folder: Path, ids: list[int], true: int, false: int) -> float:
    model, _ = _loaded(folder)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return float(logits[true] - logits[false])


def qwen3_card(folder: Path, pair: Pair, max_length: int, instruction: str = INSTRUCTION) -> float:
    """The probability of `yes` against `no`."""
    _, tokenizer = _loaded(folder)
    start = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    end = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    prefix = tokenizer.encode(start, add_special_tokens=False)
    suffix = tokenizer.encode(end, add_special_tokens=False)
    text = f"<Instruct>: {instruction}\n<Query>: {pair[0]}\n<Document>: {pair[1]}"
    room = max_length - len(prefix) - len(suffix)
    body = tokenizer(text, truncation="longest_first", max_length=room)["input_ids"]
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    difference = _difference(folder, prefix + body + suffix, yes, no)
    return float(torch.softmax(torch.tensor([0.0, difference]), 0)[1])


def mxbai_package(folder: Path, pair: Pair, max_length: int, instruction: str = "") -> float:
    """The logit of `1` minus that of `0`."""
    model, tokenizer = _loaded(folder)

    def ids(text: str, limit: int | None = None) -> list[int]:
        found = tokenizer(text, add_special_tokens=False, truncation=limit is not None,
                          max_length=limit)["input_ids"]  # fmt: skip
        return list(found)

    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. "
        "For each query-document pair, carefully analyze the semantic relationship between them, "
        "then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."
        "\nRelevance:"
    )
    prefix = ids(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\n"
    )
    suffix = ids("<|im_end|>\n<|im_start|>assistant\n")
    around = len(prefix) + len(ids(task)) + len(suffix) + len(ids("\n"))
    positions = model.config.max_position_embeddings
    if max_length + around > positions:
        max_length = positions - around
    told = f"instruction: {instruction}\n" if instruction else ""
    query = ids(f"{told}query: {pair[0]}", max_length * 3 // 4)
    most = min(positions - len(query) - around, max_length)
    document = ids("\n") + ids(f"document: {pair[1]}", most)
    body = query + document[: max(0, max_length - len(query))]
    whole = prefix + body + ids("\n") + ids(task) + suffix
    return _difference(folder, whole, ids("1")[0], ids("0")[0])


@pytest.fixture
def qwen3(tmp_path: Path) -> Path:
    """A revision of Qwen3-Reranker without module files, and with Qwen3's chat template."""
    folder = tmp_path / "Qwen3-Reranker-0.6B"
    return save_decoder(folder, template=CHAT_TEMPLATE, tie_word_embeddings=True)


@pytest.fixture
def mxbai(tmp_path: Path) -> Path:
    folder = tmp_path / "mxbai-rerank-base-v2"
    return save_decoder(
        folder, "Qwen2ForCausalLM", template=CHAT_TEMPLATE, tie_word_embeddings=True, limit=600
    )


@pytest.mark.parametrize("limit", [None, 190])
def test_qwen3_reranker_gives_the_scores_of_its_card(
    limit: int | None, qwen3: Path, tmp_path: Path
) -> None:
    expected = [qwen3_card(qwen3, pair, limit or 4096) for pair in TEXTS]
    ours = scores_by_us(qwen3, TEXTS, tmp_path, max_length=limit)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    told = "Find the capital"
    expected = [qwen3_card(qwen3, pair, limit or 4096, told) for pair in TEXTS[:2]]
    ours = scores_by_us(qwen3, TEXTS[:2], tmp_path, max_length=limit, instruction=told)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("limit", [None, 90, 40])
def test_mxbai_rerank_gives_the_scores_of_its_package(
    limit: int | None, mxbai: Path, tmp_path: Path
) -> None:
    expected = [mxbai_package(mxbai, pair, limit or 8192) for pair in TEXTS]
    ours = scores_by_us(mxbai, TEXTS, tmp_path, max_length=limit)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    assert by_us(mxbai, TEXTS, tmp_path, max_length=limit)[5]["truncated"]
    told = "Find the capital"
    expected = [mxbai_package(mxbai, pair, limit or 8192, told) for pair in TEXTS[:2]]
    ours = scores_by_us(mxbai, TEXTS[:2], tmp_path, max_length=limit, instruction=told)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


def test_a_pair_that_the_limit_would_cut_is_marked_or_refused(mxbai: Path, tmp_path: Path) -> None:
    rows = by_us(mxbai, TEXTS, tmp_path, max_length=90)
    cut = [row["truncated"] for row in rows]
    assert cut == [False, False, False, False, True, True]
    refused = by_us(mxbai, TEXTS, tmp_path, max_length=90, truncate="error")
    assert [row["error"] is not None for row in refused] == cut
    with pytest.raises(BeiJobsError, match="--truncate left would cut off the query"):
        by_us(mxbai, TEXTS, tmp_path, truncate="left")


def test_the_limit_of_the_authors_is_the_default(tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "Qwen3-Reranker-8B", limit=40_960)
    assert open_card(str(folder), cache_dir=tmp_path).max_length == 8192


def test_a_language_model_that_says_nothing_is_no_reranker(tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "Qwen3-0.6B", template=CHAT_TEMPLATE)
    with pytest.raises(BeiJobsError) as refused:
        by_us(folder, TEXTS, tmp_path)
    assert "it is a language model" in refused.value.message
    assert "embed" not in refused.value.hint
    assert "LogitScore" in refused.value.hint
