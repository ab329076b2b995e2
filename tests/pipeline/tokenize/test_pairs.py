"""Pairs are those that the tokenizer makes; truncation never touches a query."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from corpora import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.errors import UsageError
from pipeline.spec import Truncate
from pipeline.tokenize.pairs import PairTokenizer
from pipeline.tokenize.texts import NO_TOKENS
from pipeline.tokenize.tokens import Tokens

RERANKERS = ("bge_reranker_xlmr", "gte_new_reranker", "modernbert_reranker")
#: WordPiece, which tells the texts of a pair apart by type.
TYPED = "ner_bert"
ROOM = 12

TEXT = st.text(alphabet="ab é日\U0001f600.,-\n", max_size=40)


@cache
def serialized(name: str) -> str:
    return (GOLDENS / name / "tokenizer.json").read_text()


def tokenizer(name: str = TYPED) -> Tokenizer:
    made = Tokenizer.from_str(serialized(name))
    made.no_padding()
    made.no_truncation()
    return made


def encode(
    pairs: Sequence[tuple[str, str]],
    name: str = TYPED,
    *,
    limit: int = ROOM,
    truncate: Truncate = "right",
) -> Tokens:
    """One pair a row."""
    made = PairTokenizer(tokenizer(name), limit, truncate, typed=True)
    rows = np.arange(len(pairs))
    return made.encode([q for q, _ in pairs], [d for _, d in pairs], rows, {})


def sequence(tokens: Tokens, number: int) -> list[int]:
    return tokens.ids[tokens.offsets[number] : tokens.offsets[number + 1]].tolist()


@settings(max_examples=40, deadline=None)
@given(
    query=TEXT, document=TEXT, limit=st.integers(5, 40), truncate=st.sampled_from(["right", "left"])
)
@pytest.mark.parametrize("name", [*RERANKERS, TYPED])
def test_a_pair_is_what_the_tokenizer_makes_of_it_cutting_only_the_second(
    name: str, query: str, document: str, limit: int, truncate: Truncate
) -> None:
    oracle = tokenizer(name)
    tokens = encode([(query, document)], name, limit=limit, truncate=truncate)
    whole = oracle.encode(query, document)
    special = oracle.num_special_tokens_to_add(is_pair=True)
    asked = len(oracle.encode(query, add_special_tokens=False))
    if len(whole) > limit and asked + special >= limit:
        assert "leaves none for a document" in tokens.errors[0]
        return
    oracle.enable_truncation(limit, strategy="only_second", direction=truncate)
    expected = oracle.encode(query, document)
    assert sequence(tokens, 0) == expected.ids
    assert tokens.type_ids is not None
    assert tokens.type_ids.tolist() == expected.type_ids
    assert tokens.truncated.tolist() == [len(whole) > limit]
    assert tokens.n_tokens.tolist() == [len(expected)]


@settings(max_examples=60, deadline=None)
@given(
    query=TEXT, document=TEXT, limit=st.integers(4, 40), truncate=st.sampled_from(["right", "left"])
)
def test_truncation_never_touches_the_query(
    query: str, document: str, limit: int, truncate: Truncate
) -> None:
    tokens = encode([(query, document)], limit=limit, truncate=truncate)
    asked = tokenizer().encode(query, add_special_tokens=False).ids
    if 0 in tokens.errors:
        assert len(asked) + 3 >= limit
        assert len(tokens.lengths) == 0
    else:
        assert sequence(tokens, 0)[1 : 1 + len(asked)] == asked
        assert int(tokens.lengths[0]) <= limit


def test_a_document_is_cut_at_the_end_that_was_asked_for() -> None:
    words = "a b c d e f g h i j k l"
    ids = tokenizer().encode(words, add_special_tokens=False).ids
    right, left = (sequence(encode([("a", words)], truncate=t), 0)[3:-1] for t in ("right", "left"))
    assert right == ids[: len(right)]
    assert left == ids[-len(left) :]
    assert len(right) == len(left) == ROOM - 4


def test_a_document_far_over_the_limit_is_cut_before_tokenizing_to_the_same_tokens() -> None:
    long = "word goes on " * 500
    oracle = tokenizer()
    oracle.enable_truncation(ROOM, strategy="only_second")
    tokens = encode([("q", long)])
    assert sequence(tokens, 0) == oracle.encode("q", long).ids
    assert tokens.truncated.tolist() == [True]


def test_a_query_that_leaves_no_room_fails_its_row_and_no_other() -> None:
    tokens = encode([("a " * 30, "b"), ("a", "b")])
    assert tokens.errors == {
        0: f"the query has 30 tokens and leaves none for a document within --max-length {ROOM}"
    }
    assert tokens.row_of.tolist() == [1]


def test_one_pair_that_fails_takes_its_row_with_it() -> None:
    made = PairTokenizer(tokenizer(), ROOM, "error", typed=False)
    documents = ["b", "c " * 30, "d", "e"]
    tokens = made.encode(["a", "a"], documents, np.array([0, 0, 0, 1]), {})
    assert list(tokens.errors) == [0]
    assert "have 34 tokens, more than --max-length" in tokens.errors[0]
    assert tokens.row_of.tolist() == [1]


def test_tokens_and_truncation_are_counted_over_all_pairs_of_a_row() -> None:
    made = PairTokenizer(tokenizer(), ROOM, "right", typed=False)
    tokens = made.encode(["a", "a", "a"], ["b", "c " * 30, "d"], np.array([0, 0, 2]), {})
    assert tokens.n_tokens.tolist() == [5 + ROOM, 0, 5]
    assert tokens.truncated.tolist() == [True, False, False]
    assert tokens.type_ids is None


def test_a_pair_without_any_token_says_so() -> None:
    assert encode([("", "")], "voyage_nano").errors == {0: NO_TOKENS}


def test_nothing_at_all_is_no_sequence() -> None:
    tokens = encode([])
    assert tokens.rows == len(tokens.lengths) == len(tokens.ids) == 0


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(UsageError, match="no room for text besides the 3 special tokens"):
        encode([("a", "b")], limit=3)
