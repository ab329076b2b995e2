"""Entities and tokens with their places in the text, however long and however written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from task_rows import LABELS, TOKENIZERS, finish, table

from pipeline.tasks import Task
from pipeline.tokenize.tokens import Tokens

Make = Callable[..., Task]
O, B_PER, I_PER = 0, 1, 2  # noqa: E741
PER = (B_PER, I_PER)
CERTAIN = 9.0


def certain(tokens: Tokens, labels: Any) -> Any:
    """Logits that leave no doubt about a label a token."""
    logits = np.zeros((len(tokens.ids), len(LABELS)), dtype=np.float32)
    logits[np.arange(len(tokens.ids)), labels] = CERTAIN
    return logits


def all_person(make: Make, text: str | None, name: str = "ner_bert", **options: Any) -> Any:
    """What comes of a text all of whose tokens are inside a person."""
    task = make("tag", name, **options)
    rows = table(text=[text])
    tokens = task.tokenize(rows)
    (result,) = finish(task, rows, tokens, certain(tokens, I_PER))
    return result["tokens" if options.get("aggregation") == "none" else "entities"]


@pytest.mark.parametrize(
    "text",
    [
        "Ada",
        "\U0001f600 Ada \U0001f600",
        "e\u0301clair cafe\u0301",
        "日本語 テキスト",
        "\u200bzero\u200bwidth",
        "ﬁne ﬂag",
        "İstanbul",
        "tab\tand\nline",
    ],
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_places_count_code_points_of_the_text_as_it_came(make: Make, name: str, text: str) -> None:
    for strategy in ("simple", "first"):
        for entity in all_person(make, text, name, aggregation=strategy):
            assert entity["text"] == text[entity["start"] : entity["end"]]
            assert 0 <= entity["start"] <= entity["end"] <= len(text)
    tokens = all_person(make, text, name, aggregation="none")
    assert [t["start"] for t in tokens] == sorted(t["start"] for t in tokens)


def test_an_emoji_before_a_name_moves_it_by_one(make: Make) -> None:
    rows = table(text=["\U0001f600 ada"])
    task = make("tag")
    tokens = task.tokenize(rows)
    assert tokens.char_spans is not None
    labels = np.where(tokens.char_spans[:, 0] >= 2, I_PER, O)
    (result,) = finish(task, rows, tokens, certain(tokens, labels))
    (entity,) = result["entities"]
    assert (entity["start"], entity["end"], entity["text"]) == (2, 5, "ada")


def test_unknown_words_have_places_and_their_own_text_as_token(make: Make) -> None:
    text = "☃ ☄"
    tokens = all_person(make, text, aggregation="none")
    assert [(t["token"], t["start"], t["end"]) for t in tokens] == [("☃", 0, 1), ("☄", 2, 3)]
    (entity,) = all_person(make, text, aggregation="average")
    assert (entity["text"], entity["start"], entity["end"]) == (text, 0, 3)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_an_empty_text_has_no_entity_and_no_error(make: Make, strategy: str) -> None:
    assert all_person(make, "", aggregation=strategy) == []


def test_a_null_text_is_an_error_and_null(make: Make) -> None:
    task = make("tag")
    rows = table(text=[None, "ada"])
    tokens = task.tokenize(rows)
    assert tokens.errors == {0: "the text is null"}
    results = finish(task, rows, tokens, certain(tokens, I_PER))
    assert results[0] == {"entities": None}
    assert len(results[1]["entities"]) == 1


def test_the_label_o_and_special_tokens_are_left_out(make: Make) -> None:
    task = make("tag", aggregation="none")
    rows = table(text=["ada b"])
    tokens = task.tokenize(rows)
    labels = [O] * len(tokens.ids)
    labels[0] = labels[-1] = labels[-2] = I_PER
    (result,) = finish(task, rows, tokens, certain(tokens, labels))
    assert [t["token"] for t in result["tokens"]] == ["b"]


def test_entities_of_neighbouring_rows_stay_apart(make: Make) -> None:
    # The accent makes the one token of its word look like the end of the word before.
    texts = ["ada", "fo\u0301r", "b"]
    rows = table(text=texts)
    for strategy in ("simple", "first", "average", "max"):
        task = make("tag", aggregation=strategy)
        tokens = task.tokenize(rows)
        results = finish(task, rows, tokens, certain(tokens, I_PER))
        assert [[e["text"] for e in row["entities"]] for row in results] == [[t] for t in texts]


def test_a_failed_row_is_null_and_its_neighbours_keep_their_entities(make: Make) -> None:
    task = make("tag")
    rows = table(text=["ada", "bob", "cy"])
    tokens = task.tokenize(rows)
    logits = certain(tokens, I_PER)
    logits[tokens.token_rows == 1] = np.nan
    results = finish(task, rows, tokens, logits, failed=(1,))
    texts = [row["entities"] and row["entities"][0]["text"] for row in results]
    assert texts == ["ada", None, "cy"]


def test_what_is_not_finite_is_not_even_written_under_a_null(make: Make) -> None:
    task = make("tag", aggregation="none", raw_scores=True)
    rows = table(text=["ada", "bob"])
    tokens = task.tokenize(rows)
    logits = certain(tokens, I_PER)
    logits[tokens.token_rows == 0, I_PER] = np.nan
    (column,) = task.columns(rows, tokens, logits, np.array([True, False]))
    assert np.isfinite(column.values.field("score")).all()


def test_raw_scores_of_tokens_are_logits(make: Make) -> None:
    assert all_person(make, "a", aggregation="none", raw_scores=True)[0]["score"] == CERTAIN


ALL_LABELS = {"aggregation": "none", "raw_scores": True, "all_labels": True}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("limit", [500, 33, 16])
def test_every_token_of_a_text_of_any_length_has_all_its_logits_once(
    make: Make, tokenizer: Callable[[str], Any], name: str, limit: int
) -> None:
    texts = ["", "Ada \U0001f600 met ☃ in Ávila", "some words of a long text, none the same " * 7]
    rows = table(text=texts)
    task = make("tag", name, max_length=limit, **ALL_LABELS)
    tokens = task.tokenize(rows)
    assert tokens.char_spans is not None
    # What a token is given depends on its place in the text alone, whatever chunk it is read in.
    level = np.random.default_rng(0).integers(-9, 9, (500, len(LABELS)))
    results = finish(task, rows, tokens, level[tokens.char_spans[:, 0]])
    whole = tokenizer(name)
    whole.no_truncation()
    for text, result in zip(texts, results, strict=True):
        encoding = whole.encode(text)
        places = [
            (number, *place)
            for number, place, special in zip(
                encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
            )
            if not special
        ]
        found = result["tokens"]
        assert [(t["token_id"], t["start"], t["end"]) for t in found] == places
        for token in found:
            logits = level[token["start"]]
            assert token["scores"] == logits.tolist()
            assert token["score"] == logits.max()
            assert token["label"] == LABELS[logits.argmax()]


def test_a_token_without_an_entity_is_there_with_all_its_logits(make: Make) -> None:
    task = make("tag", **ALL_LABELS)
    rows = table(text=["ada b", None])
    tokens = task.tokenize(rows)
    results = finish(task, rows, tokens, certain(tokens, O))
    assert {t["label"] for t in results[0]["tokens"]} == {"O"}
    assert results[0]["tokens"][0]["scores"] == [CERTAIN, *[0.0] * (len(LABELS) - 1)]
    assert results[1] == {"tokens": None}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_one_entity_over_a_text_of_many_chunks_is_one_entity(make: Make, name: str) -> None:
    text = "one two three four five six seven eight nine ten " * 20 + "end"
    (entity,) = all_person(make, text, name, max_length=16)
    assert (entity["start"], entity["end"]) == (0, len(text))


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_a_long_text_has_the_entities_that_one_long_window_would_have(
    make: Make, strategy: str
) -> None:
    """With logits that depend only on the position, chunks must make no difference."""
    rows = table(text=["short", "some words of a long text, none the same as " * 9, "tail"])
    level = np.random.default_rng(0).integers(0, 4, (500, len(LABELS)))
    results = []
    for limit in (500, 16, 33):
        task = make("tag", aggregation=strategy, max_length=limit)
        tokens = task.tokenize(rows)
        assert tokens.char_spans is not None
        results.append(finish(task, rows, tokens, level[tokens.char_spans[:, 0]]))
    assert len(results[0][1]["entities"]) > 20
    assert results[0] == results[1] == results[2]


def test_nothing_after_the_limit_is_lost(make: Make) -> None:
    text = "filler " * 700 + "ada"
    rows = table(text=[text])
    task = make("tag", max_length=512)
    tokens = task.tokenize(rows)
    assert tokens.char_spans is not None
    labels = np.where(tokens.char_spans[:, 0] >= len(text) - 3, I_PER, O)
    (result,) = finish(task, rows, tokens, certain(tokens, labels))
    assert [e["text"] for e in result["entities"]] == ["ada"]
    assert not tokens.truncated.any()
