"""Tokenizing is exact, truncation is counted, and a bad row never stops its neighbours."""

from __future__ import annotations

import pyarrow as pa
import pytest
from corpora import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.tokenize.shorten import shorten
from pipeline.tokenize.texts import NO_TOKENS, NULL_TEXT, TextTokenizer, text_values

WORDPIECE = GOLDENS / "bert_mean" / "tokenizer.json"
WITHOUT_SPECIALS = GOLDENS / "voyage_nano" / "tokenizer.json"
LIMIT = 12


def tokenizer(truncate: str = "right", limit: int = LIMIT) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_file(str(WORDPIECE)), limit, truncate)  # type: ignore[arg-type]


def ids_of(tokens: object, row: int) -> list[int]:
    sequence = tokens.row_of.tolist().index(row)  # type: ignore[attr-defined]
    start, stop = tokens.offsets[sequence : sequence + 2]  # type: ignore[attr-defined]
    return tokens.ids[start:stop].tolist()  # type: ignore[attr-defined]


def test_a_text_gives_the_ids_that_the_tokenizer_gives_for_it_alone() -> None:
    text = "Library for building packages"

    tokens = tokenizer().encode([text])

    plain = Tokenizer.from_file(str(WORDPIECE))
    plain.enable_truncation(LIMIT)
    assert ids_of(tokens, 0) == plain.encode(text).ids


def test_a_null_has_an_error_and_its_neighbours_have_tokens() -> None:
    tokens = tokenizer().encode(["one", None, "two"])

    assert tokens.errors == {1: NULL_TEXT}
    assert tokens.row_of.tolist() == [0, 2]
    assert tokens.n_tokens[1] == 0
    assert tokens.n_tokens[[0, 2]].min() > 0


def test_an_empty_text_is_the_special_tokens() -> None:
    tokens = tokenizer().encode([""])

    assert not tokens.errors
    assert tokens.n_tokens.tolist() == [2]


def test_a_text_without_any_token_is_an_error() -> None:
    bare = TextTokenizer(Tokenizer.from_file(str(WITHOUT_SPECIALS)), LIMIT, "right")

    assert bare.encode(["", "a"]).errors == {0: NO_TOKENS}


@pytest.mark.parametrize("truncate", ["right", "left"])
def test_a_long_text_is_cut_to_the_limit_and_counted(truncate: str) -> None:
    tokens = tokenizer(truncate).encode(["short", "a word " * 40])

    assert tokens.truncated.tolist() == [False, True]
    assert tokens.n_tokens[1] == LIMIT


def test_left_and_right_keep_different_ends() -> None:
    text = "first " + "middle " * 40 + "last"

    assert ids_of(tokenizer("right").encode([text]), 0) != ids_of(
        tokenizer("left").encode([text]), 0
    )


def test_a_text_of_exactly_the_limit_is_not_truncated() -> None:
    size = int(tokenizer().encode(["a a a"]).n_tokens[0])

    assert not tokenizer(limit=size).encode(["a a a"]).truncated[0]


def test_truncate_error_refuses_the_row_and_says_how_long_it_is() -> None:
    tokens = tokenizer("error").encode(["fine", "a word " * 40])

    assert list(tokens.errors) == [1]
    assert f"more than --max-length {LIMIT}" in tokens.errors[1]


def test_a_prompt_stands_before_each_text() -> None:
    with_prompt = tokenizer().encode(["cat"], prompt="find: ")

    assert ids_of(with_prompt, 0) == ids_of(tokenizer().encode(["find: cat"]), 0)


words = st.text(
    alphabet=st.sampled_from("abcXYZ019 \t\n\r.,-'_/éü東京\u0301\u200b\u00a0[]{}<>"), max_size=600
)


@settings(max_examples=300, deadline=None)
@given(words, st.integers(3, 20))
def test_cutting_before_tokenizing_changes_neither_ids_nor_the_count(text: str, limit: int) -> None:
    plain = Tokenizer.from_file(str(WORDPIECE))
    plain.enable_truncation(limit)
    whole = plain.encode(text)
    cut = plain.encode(shorten(text, limit))

    assert cut.ids == whole.ids
    assert bool(cut.overflowing) == bool(whole.overflowing)


def test_very_long_texts_are_cut_before_they_are_tokenized() -> None:
    text = "word " * 100_000

    assert len(shorten(text, LIMIT)) == len("word ") * (LIMIT + 1)


def test_a_text_without_white_space_is_never_cut_so() -> None:
    text = "東京" * 10_000

    assert shorten(text, LIMIT) == text


def test_invalid_utf8_is_one_rows_error() -> None:
    column = pa.array([b"fine", b"bad \xff here", None, b"too"], pa.binary()).view(pa.string())

    texts, errors = text_values(column)

    assert texts == ["fine", None, None, "too"]
    assert list(errors) == [1]
    assert "UTF-8" in errors[1]
