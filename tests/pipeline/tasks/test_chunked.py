"""Rerankers and classifiers on long texts: one row of all chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from task_rows import TOKENIZERS, finish, table
from tokenizers import Tokenizer

from pipeline.errors import UsageError
from pipeline.tasks import Task

Make = Callable[..., Task]
POOL: dict[str, Any] = {
    "chunking": "pool",
    "chunk_tokens": 32,
    "chunk_overlap": 4,
    "chunk_rules": 1,
}
LONG = " ".join(f"Sentence {i} says something else." for i in range(20))
SHORT = "One only."


def text_of(vocabulary: Tokenizer, ids: object) -> str:
    return "".join(vocabulary.decode(list(map(int, ids))).split())  # type: ignore[call-overload]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_document_is_read_in_pairs_with_the_whole_query_and_scored_by_the_best(
    name: str, make: Make, tokenizer: Callable[[str], Tokenizer]
) -> None:
    rows = table(query=["a question here", "b"], documents=[[LONG, SHORT, LONG], []])
    task = make("rerank", name, labels=("relevance",), raw_scores=True, **POOL)
    tokens = task.tokenize(rows)
    assert not tokens.truncated.any()
    assert tokens.errors == {}
    assert max(tokens.lengths) <= 32
    chunks = tokens.chunks
    assert chunks is not None
    counts = np.bincount(chunks.starts)  # sequences of each document
    assert counts[1] == 1
    assert counts[0] == counts[2] > 4
    vocabulary, single = tokenizer(name), make("rerank", name, labels=("relevance",))
    (alone,) = [single.tokenize(table(query=["a question here"], documents=[[SHORT]])).ids.tolist()]
    start, stop = tokens.offsets[counts[0] : counts[0] + 2]
    assert tokens.ids[start:stop].tolist() == alone
    own = [text_of(vocabulary, tokens.ids[a:b]) for a, b in
           zip(tokens.offsets[: counts[0]], tokens.offsets[1:], strict=False)]  # fmt: skip
    query = text_of(vocabulary, vocabulary.encode("a question here").ids)
    assert all(query in pair for pair in own)
    assert all(any(f"entence{i}" in pair for pair in own) for i in range(20)) or name == "ner_bert"
    logits = np.arange(len(tokens.lengths), dtype=np.float32)[:, None]
    logits[2] = 99.0
    best = [99.0, float(counts[0]), float(len(logits) - 1)]
    first, second = finish(task, rows, tokens, logits)
    assert first == {"scores": best, "ranking": [0, 2, 1]}
    assert second == {"scores": [], "ranking": []}


def test_a_query_that_leaves_no_room_is_an_error_as_it_is_without_chunks(make: Make) -> None:
    rows = table(query=[LONG, "a"], document=[LONG, LONG])
    options: dict[str, Any] = {"max_length": 32, "document_column": "document"}
    plain = make("rerank", labels=("relevance",), **options).tokenize(rows).errors
    task = make("rerank", labels=("relevance",), **options, **POOL)
    tokens = task.tokenize(rows)
    assert tokens.errors == plain
    assert list(plain) == [0]
    best = finish(task, rows, tokens, np.ones((len(tokens.lengths), 1)))
    assert best[0] == {"score": None}
    assert best[1]["score"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_query_that_leaves_no_room_for_a_chunk_is_an_error_where_chunks_could_be_longer(
    make: Make,
) -> None:
    query = "a question of some more words than that"
    rows = table(query=[query, query, "a", query], documents=[[SHORT, LONG], ["a"], [LONG], []])
    options: dict[str, Any] = {**POOL, "max_length": 64, "chunk_overlap": 0}
    long = make("rerank", labels=("relevance",), **options | {"chunk_tokens": 60}).tokenize(rows)
    assert not long.errors
    size = len(make("rerank", labels=("relevance",)).tokenize(rows.slice(1, 1)).ids)
    task = make("rerank", labels=("relevance",), **options | {"chunk_tokens": size})
    tokens = task.tokenize(rows)
    assert tokens.errors == {
        0: f"the query leaves no room for a chunk of its document within --chunk-tokens {size}"
    }
    assert sorted(set(tokens.row_of.tolist())) == [1, 2]
    assert max(tokens.lengths) == size
    assert not tokens.truncated.any()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_chunks_too_short_for_any_document_are_refused(name: str, make: Make) -> None:
    options: dict[str, Any] = {**POOL, "chunk_overlap": 0}
    for small in range(1, 4):
        with pytest.raises(UsageError, match=f"--chunk-tokens {small} leaves no room") as refused:
            make("rerank", name, labels=("relevance",), **options | {"chunk_tokens": small})
    assert refused.value.hint
    least = int(refused.value.hint.split()[1])
    make("rerank", name, labels=("relevance",), **options | {"chunk_tokens": least})


def test_a_long_document_is_tokenized_in_sections(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(query=["a question here"], documents=[[LONG, SHORT]])
    tokens = make("rerank", labels=("relevance",), **POOL).tokenize(rows)
    monkeypatch.setattr("pipeline.tokenize.encodings._SECTION_CHARS", 100)
    parts = make("rerank", labels=("relevance",), **POOL).tokenize(rows)
    assert parts.ids.tolist() == tokens.ids.tolist()


def classified(make: Make, labels: int = 3, **options: Any) -> tuple[Any, Any]:
    """Logits of the chunks of a long text, and the result of its row."""
    rows = table(text=[SHORT, LONG])
    names = ("joy", "anger", "fear")[:labels]
    task = make("classify", labels=names, top_k=9, **options, **POOL)
    tokens = task.tokenize(rows)
    logits = np.random.default_rng(1).normal(0, 3, (len(tokens.lengths), labels))
    results = finish(task, rows, tokens, logits)
    weights = tokens.lengths[1:]
    scores = [dict(zip(r["labels"], r["scores"], strict=True)) for r in results]
    return (logits, weights, names), scores


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_labels_that_exclude_each_other_have_the_mean_of_their_probabilities(make: Make) -> None:
    (logits, weights, names), (short, long) = classified(make)
    expected = np.average(softmax(logits[1:]), axis=0, weights=weights)
    np.testing.assert_allclose([long[name] for name in names], expected, rtol=1e-5)
    np.testing.assert_allclose([short[name] for name in names], softmax(logits[0]), rtol=1e-5)


def test_labels_that_do_not_exclude_each_other_are_those_of_their_best_chunk(make: Make) -> None:
    (logits, _, names), (_, long) = classified(make, multi_label=True)
    expected = (1 / (1 + np.exp(-logits[1:]))).max(axis=0)
    np.testing.assert_allclose([long[name] for name in names], expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{"regression": True}, {"raw_scores": True}])
def test_regressions_and_logits_are_means(make: Make, options: dict[str, Any]) -> None:
    (logits, weights, names), (_, long) = classified(make, **options)
    expected = np.average(logits[1:], axis=0, weights=weights)
    np.testing.assert_allclose([long[name] for name in names], expected, rtol=1e-5)


def test_a_regression_of_one_value_is_a_mean_too(make: Make) -> None:
    (logits, weights, _), (_, long) = classified(make, labels=1, regression=True)
    assert long["joy"] == pytest.approx(np.average(logits[1:, 0], weights=weights), rel=1e-5)


def test_the_document_of_a_pair_to_classify_is_read_in_chunks(make: Make) -> None:
    rows = table(query=["a premise"], document=[LONG])
    task = make("classify", labels=("yes", "no"), document_column="document", **POOL)
    tokens = task.tokenize(rows)
    assert len(tokens.lengths) > 4
    assert not tokens.truncated.any()
    (result,) = finish(task, rows, tokens, [[0.0, 1.0]] * len(tokens.lengths))
    assert result["labels"] == ["no"]
    assert result["scores"][0] == pytest.approx(1 / (1 + np.exp(-1)))
