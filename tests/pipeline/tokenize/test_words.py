"""Tokens by words are the tokenizer's own, whatever the texts hold and wherever they are cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpora import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers_compared import odd_texts as of_any_model

from pipeline.encoder.card import open_card
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.words import Speller, spells_by_words

# What could join words, split them elsewhere, or reach over a space.
ODD = [
    "word", "words", "a", "Library", "İstanbul", "ΌΔΟΣ", "ß", "straße", "naïve", "中文", "日本語",
    "e\N{COMBINING ACUTE ACCENT}", "\N{COMBINING ACUTE ACCENT}", "한국어", "\N{ZERO WIDTH SPACE}",
    "\N{NO-BREAK SPACE}", "\N{EM SPACE}", "\N{LINE SEPARATOR}", "\x00", "\x0b", "\x0c", "\x1c",
    "\x85", "\ufeff", "\ufffd", " ", "  ", "\t", "\n", "\r\n", "[MASK]", "[SEP]", "[CLS]", "[mask]",
    "NEW", "new", "x" * 120, "http://a.b/c?d=1", "don't", ",", ".", "...", "\N{EM DASH}", "😀",
    "👩\N{ZERO WIDTH JOINER}💻", "12345", "\N{EGYPTIAN HIEROGLYPH A001}", "_", "_NEW", "-NEW-", "=",
    "(", ")", "=\N{COMBINING LONG SOLIDUS OVERLAY}", "snake_case", "a/b/c", "[", "]", "++",
]  # fmt: skip


def bare(**normalizer: Any) -> Tokenizer:
    """BERT's tokenizer without special tokens around a text, and with odd added tokens."""
    tokenizer = Tokenizer.from_file(str(GOLDENS / "bert_mean" / "tokenizer.json"))
    tokenizer.post_processor = None
    if normalizer:
        tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("NEW", single_word=True), AddedToken("ΌΔ", normalized=True)])
    return tokenizer


def odd_texts(count: int, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return ["".join(drawn.choices(ODD, k=drawn.randrange(12))) for _ in range(count)]


@pytest.mark.parametrize(
    "normalizer",
    [{}, {"lowercase": False}, {"strip_accents": False}, {"clean_text": False}],
    ids=str,
)
def test_two_thousand_odd_texts_have_the_tokenizers_own_tokens(normalizer: dict[str, Any]) -> None:
    tokenizer, texts = bare(**normalizer), odd_texts(2000)
    assert spells_by_words(tokenizer)
    speller = Speller(tokenizer)
    expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    for _ in range(2):  # the second time from memory
        ids, lengths = speller.encode(pa.array(texts, pa.large_string()))
        assert lengths.tolist() == [len(e) for e in expected]
        assert ids.tolist() == [i for e in expected for i in e]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tokenize.words._REMEMBERED", 10)
    speller, texts = Speller(bare()), odd_texts(200)
    first = speller.encode(pa.array(texts, pa.large_string()))
    assert len(speller._known) <= 10
    np.testing.assert_array_equal(speller.encode(pa.array(texts, pa.large_string()))[0], first[0])


WORD_PIECES = ("bert_mean", "gte_new_ntk", "jina_en", "mpnet_mean", "ner_bert", "nomic_old_config")


@pytest.mark.parametrize("golden", WORD_PIECES)
def test_texts_with_special_tokens_are_spelled_as_the_tokenizer_encodes_them(golden: str) -> None:
    whole = load_tokenizer(open_card(str(GOLDENS / golden)))
    texts = [*odd_texts(500, seed=2), *of_any_model()]
    tokens = TextTokenizer(whole, 4096, "right").encode(texts)
    whole.no_truncation()
    expected = [e.ids for e in whole.encode_batch(texts)]
    assert tokens.n_tokens.tolist() == [len(e) for e in expected]
    assert tokens.ids.tolist() == [i for e in expected for i in e]


@given(texts=st.lists(st.text(max_size=50), max_size=6))
@settings(max_examples=200)
def test_any_text_is_spelled_as_the_tokenizer_encodes_it(texts: list[str]) -> None:
    tokenizer = bare()
    ids, _ = Speller(tokenizer).encode(pa.array(texts, pa.large_string()))
    expected = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert ids.tolist() == [i for e in expected for i in e.ids]


def test_a_long_text_is_cut_before_it_is_spelled() -> None:
    speller, texts = Speller(bare()), ["one two three " * 1000, "one"]
    _, lengths = speller.encode(pa.array(texts, pa.large_string()), shorten=7)
    assert 7 < lengths[0] < 100
    assert lengths[1] == len(bare().encode("one"))


def test_long_words_are_not_remembered() -> None:
    speller = Speller(bare())
    speller.encode(pa.array(["短い" * 40 + " word"], pa.large_string()))
    assert list(speller._known) == ["word"]


def test_a_tokenizer_with_a_token_over_a_space_is_not_spelled() -> None:
    over = bare()
    over.add_tokens(["New York"])
    assert not spells_by_words(over)
    tokens = TextTokenizer(over, 100, "right").encode(["in New York now"])
    assert tokens.ids.tolist() == over.encode("in New York now").ids


@pytest.mark.parametrize("truncate", ["right", "left", "error"])
def test_a_cut_is_the_tokenizers_own(truncate: Any) -> None:
    limit = 5
    texts: list[str | None] = [*odd_texts(300, seed=1), None, "", "one two three four five six"]
    tokens = TextTokenizer(bare(), limit, truncate).encode(texts, "ask: ")
    plain = bare()
    if truncate != "error":
        plain.enable_truncation(limit, direction=truncate)
    row_of = tokens.row_of.tolist()
    for row, text in enumerate(texts):
        encoding = plain.encode("ask: " + (text or ""))
        refused = text is None or len(encoding) > limit
        assert (row in tokens.errors) == refused
        if not refused:
            sequence = row_of.index(row)
            start, stop = tokens.offsets[sequence : sequence + 2]
            assert tokens.ids[start:stop].tolist() == encoding.ids
            assert bool(tokens.truncated[row]) == bool(encoding.overflowing)
    assert tokens.n_tokens.sum() == len(tokens.ids)
