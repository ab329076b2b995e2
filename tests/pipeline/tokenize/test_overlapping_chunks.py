"""Long texts in overlapping chunks: nothing is lost, nothing counts twice."""

from __future__ import annotations

import numpy as np
import pytest
from corpora import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.errors import UsageError
from pipeline.spec import Truncate
from pipeline.tokenize.overlapping_chunks import LongTextTokenizer, overlapping_chunks

LIMIT = 20


def tokenizer(name: str = "ner_bert") -> Tokenizer:
    return Tokenizer.from_file(str(GOLDENS / name / "tokenizer.json"))


def overlapping(truncate: Truncate = "right", limit: int = LIMIT) -> LongTextTokenizer:
    return LongTextTokenizer(tokenizer(), limit, truncate)


@st.composite
def texts(draw: st.DrawFn) -> tuple[int, int, np.ndarray]:
    tokens = draw(st.integers(1, 200))
    starts = draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    return tokens, draw(st.integers(1, 60)), np.array(starts)


@given(texts())
def test_chunks_fit_and_answer_for_every_token_exactly_once(
    text: tuple[int, int, np.ndarray],
) -> None:
    tokens, size, starts = text
    chunks = overlapping_chunks(tokens, size, starts)
    owned = [token for w in chunks for token in range(w.first, w.last)]
    assert owned == list(range(tokens))
    for w in chunks:
        assert 0 < w.stop - w.start <= size
        assert w.start <= w.first <= w.last <= w.stop


@given(texts())
def test_each_token_is_read_where_it_is_farthest_from_a_cut(
    text: tuple[int, int, np.ndarray],
) -> None:
    tokens, size, starts = text
    chunks = overlapping_chunks(tokens, size, starts)

    def distance(token: int, start: int, stop: int) -> float:
        before = token - start if start else np.inf  # the ends of the text are no cuts
        after = stop - 1 - token if stop < tokens else np.inf
        return min(before, after)

    for w in chunks:
        for token in range(w.first, w.last):
            having = [o for o in chunks if o.start <= token < o.stop]
            best = max(distance(token, o.start, o.stop) for o in having)
            assert distance(token, w.start, w.stop) == best


@given(texts())
def test_a_token_has_an_eighth_of_a_chunk_of_context_on_either_side(
    text: tuple[int, int, np.ndarray],
) -> None:
    tokens, size, starts = text
    for w in overlapping_chunks(tokens, size, starts):
        context = size // 4 - size // 4 // 2  # what words may leave of the overlap
        assert w.first == 0 or w.first - w.start >= context // 2
        assert w.last == tokens or w.stop - w.last >= context // 2


def test_chunks_begin_and_end_between_words() -> None:
    starts = np.arange(200) % 5 == 0
    chunks = overlapping_chunks(200, 64, starts)
    assert len(chunks) > 3
    assert all(w.start % 5 == 0 for w in chunks)
    assert all(w.stop % 5 == 0 for w in chunks)


def test_a_word_longer_than_a_chunk_is_cut() -> None:
    chunks = overlapping_chunks(100, 20, np.arange(100) == 0)
    assert chunks[0].stop == 20


def test_the_last_chunk_is_as_full_as_the_others() -> None:
    chunks = overlapping_chunks(65, 64, np.ones(65, dtype=np.bool_))
    assert [(w.start, w.stop) for w in chunks] == [(0, 64), (1, 65)]


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab éß\U0001f600日.,-", max_size=120), st.integers(3, 30))
def test_the_chunks_of_a_text_hold_its_tokens_and_their_places_once(text: str, limit: int) -> None:
    whole = tokenizer().encode(text)
    tokens = overlapping(limit=limit).encode(["first", text, None])
    assert tokens.char_spans is not None
    second_row = tokens.token_rows == 1
    kept = tokens.char_spans[second_row][:, 0] >= 0
    pieces = zip(whole.ids, whole.offsets, whole.special_tokens_mask, strict=True)
    expected = [(i, offsets) for i, offsets, special in pieces if not special]
    tokens_once = zip(
        tokens.ids[second_row][kept].tolist(),
        tokens.char_spans[second_row][kept].tolist(),
        strict=True,
    )
    assert [(i, tuple(span)) for i, span in tokens_once] == expected
    assert tokens.n_tokens.tolist()[1:] == [len(whole), 0]
    assert int(tokens.lengths.max()) <= limit
    assert not tokens.truncated.any()


def test_every_chunk_stands_between_the_special_tokens_of_the_model() -> None:
    tokens = overlapping().encode(["one two three four five six seven eight nine ten " * 3])
    cls, sep = (tokenizer().token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert len(tokens.lengths) > 2
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        assert tokens.ids[start] == cls
        assert tokens.ids[stop - 1] == sep


def test_a_text_that_fits_is_one_chunk_as_the_tokenizer_gives_it() -> None:
    tokens = overlapping().encode(["a b"])
    assert tokens.ids.tolist() == tokenizer().encode("a b").ids


def test_a_text_without_a_character_has_special_tokens_and_no_places() -> None:
    tokens = overlapping().encode([""])
    assert tokens.char_spans is not None
    assert tokens.errors == {}
    assert (tokens.char_spans == -1).all()


def test_a_text_without_a_token_has_no_sequence_and_no_error() -> None:
    tokens = LongTextTokenizer(tokenizer("voyage_nano"), LIMIT, "right").encode(["", "a"])
    assert tokens.errors == {}
    assert tokens.row_of.tolist() == [1]


def test_a_long_text_is_an_error_where_asked_for_and_stops_no_other() -> None:
    tokens = overlapping("error").encode(["a " * 40, "b"])
    assert tokens.errors == {0: f"the text has 42 tokens, more than --max-length {LIMIT}"}
    assert tokens.row_of.tolist() == [1]


def test_many_texts_keep_their_rows() -> None:
    tokens = overlapping().encode([None if row % 7 == 0 else f"row {row}" for row in range(600)])
    assert np.unique(tokens.row_of).tolist() == [row for row in range(600) if row % 7]


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(UsageError, match="no room for text besides the 2 special tokens"):
        overlapping(limit=2)
