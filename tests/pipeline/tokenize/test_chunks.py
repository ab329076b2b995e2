"""Chunks: where texts are cut, for any text, any tokens and any options."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest
from corpora import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.chunks import Chunk, cut_chunks, macro_windows
from pipeline.tokenize.texts import TextTokenizer

# WordPiece, byte-level BPE, Unigram.
TOKENIZERS = ("bert_mean", "roberta_mean", "e5_xlmr", "modernbert_cls")
SENTENCES = "It rained. Did it stop?\n\nNie. 天地玄黄。宇宙 J. S. Bach e.g. 👩‍🚀\u0301 x\u200bz  \t"


def texts() -> st.SearchStrategy[str]:
    words = st.sampled_from(SENTENCES.split(" "))
    mixed = st.lists(st.one_of(words, st.text(max_size=8)), max_size=60).map(" ".join)
    return st.one_of(mixed, st.text(max_size=200))


def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(GOLDENS / name / "tokenizer.json"))


LOADED = {name: tokenizer(name) for name in TOKENIZERS}


def spans(name: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    offsets = LOADED[name].encode(text, add_special_tokens=False).offsets
    pairs = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    return np.maximum.accumulate(pairs[:, 0]), pairs[:, 1]


@given(
    st.sampled_from(TOKENIZERS),
    texts(),
    st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n // 2))),
)
@settings(max_examples=250, deadline=None)
def test_chunks_cover_every_token_and_character_in_order_within_the_limits(
    name: str, text: str, options: tuple[int, int]
) -> None:
    size, overlap = options
    starts, ends = spans(name, text)
    chunks = cut_chunks(text, starts, ends, size, overlap)
    assert chunks == cut_chunks(text, starts, ends, size, overlap)
    assert all(0 < chunk.stop - chunk.first <= size for chunk in chunks) or not len(starts)
    assert (chunks[0].first, chunks[-1].stop) == (0, len(starts))
    for before, after in itertools.pairwise(chunks):
        assert before.first < after.first <= before.stop < after.stop
        assert before.stop - after.first <= overlap
        assert before.start <= after.start
        assert before.end <= after.end
    inside = np.zeros(len(text), dtype=np.bool_)
    for chunk in chunks:
        own = text[chunk.start : chunk.end]
        assert own == own.strip()
        inside[chunk.start : chunk.end] = True
        for token in range(chunk.first, chunk.stop):  # white space at the ends aside
            there = text[starts[token] : ends[token]].strip()
            assert there in own
    assert all(inside[at] or character.isspace() for at, character in enumerate(text))


def words(text: str) -> tuple[np.ndarray, np.ndarray]:
    """A token for each word and each mark."""
    found = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    pairs = np.array(found, dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]


def cut(text: str, size: int, overlap: int = 0) -> list[str]:
    chunks = cut_chunks(text, *words(text), size, overlap)
    return [text[chunk.start : chunk.end] for chunk in chunks]


def test_a_chunk_ends_after_a_sentence_else_after_a_word() -> None:
    assert cut("One two three. Four five six. Seven eight.", 6) == [
        "One two three.", "Four five six.", "Seven eight.",
    ]  # fmt: skip
    assert cut("one two three four five six seven", 3) == [
        "one two three",
        "four five six",
        "seven",
    ]
    # An initial and a small letter after the mark end no sentence, an empty line does.
    assert cut("Here J. S. Bach lived alone.", 6) == ["Here J. S. Bach", "lived alone."]
    assert cut("and so on etc. and more of it", 6) == ["and so on etc. and", "more of it"]
    assert cut("title line\n\nbody text goes on", 4) == ["title line", "body text goes on"]
    assert cut("天。地。玄。黄。", 5) == ["天。地。", "玄。黄。"]
    assert cut('"Go now!" She left us. He too.', 7) == ['"Go now!"', "She left us. He too."]


@pytest.mark.parametrize("name", ["roberta_mean", "modernbert_cls"])
def test_no_chunk_ends_within_a_character_of_several_tokens(name: str) -> None:
    text = "👩🚀🌍" * 20
    starts, ends = spans(name, text)
    assert len(starts) > 2 * len(text)
    for size in range(9, 20):
        chunks = cut_chunks(text, starts, ends, size, 0)
        assert "".join(text[chunk.start : chunk.end] for chunk in chunks) == text


def test_an_overlap_begins_with_a_sentence_else_with_a_word() -> None:
    assert cut("Aa bb cc dd. Ee ff. Gg hh ii. Jj kk.", 9, 4) == [
        "Aa bb cc dd. Ee ff.", "Ee ff. Gg hh ii.", "Gg hh ii. Jj kk.",
    ]  # fmt: skip
    assert cut("a b c d e f g h", 4, 1) == ["a b c d", "d e f g", "g h"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=80), st.integers(9, 40))
def test_each_chunk_is_in_one_window_with_the_most_context(sizes: list[int], size: int) -> None:
    stops = np.cumsum(sizes)
    chunks = [Chunk(int(b - a), int(b), 0, 0) for a, b in zip(sizes, stops, strict=True)]
    total = int(stops[-1])
    windows = macro_windows(chunks, total, size)
    assert [chunk for *_, owned in windows for chunk in owned] == chunks
    for first, stop, owned in windows:
        assert 0 <= first < stop <= total
        assert stop - first <= size
        assert all(first <= chunk.first and chunk.stop <= stop for chunk in owned)
    if total <= size:
        assert len(windows) == 1

    def context(chunk: Chunk, first: int, stop: int) -> int:
        left = chunk.first - first if first else total
        return min(left, stop - chunk.stop if stop < total else total)

    for first, stop, owned in windows:
        for chunk in owned:
            others = [w for w in windows if w[0] <= chunk.first and chunk.stop <= w[1]]
            best = max(context(chunk, *other[:2]) for other in others)
            assert context(chunk, first, stop) == best


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", ["", "passage: "])
def test_a_text_of_one_chunk_is_the_sequence_that_it_is_without_chunks(
    name: str, prompt: str
) -> None:
    given_texts = ["It rained.", "", "  ", "天地玄黄", None]
    whole = TextTokenizer(tokenizer(name), 128, "right").encode(given_texts, prompt)
    for window in (None, 128):
        tokens = ChunkTokenizer(tokenizer(name), 64, 8, window=window, prompt=prompt).encode(
            given_texts
        )
        assert tokens.ids.tolist() == whole.ids.tolist()
        assert tokens.offsets.tolist() == whole.offsets.tolist()
        assert tokens.errors == whole.errors
        assert tokens.n_tokens.tolist() == whole.n_tokens.tolist()


def test_a_chunk_has_the_tokens_of_its_own_text_where_words_stand_alone() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(60))
    tokens = ChunkTokenizer(tokenizer("bert_mean"), 40, 10, prompt="query: ").encode([text])
    chunks = tokens.chunks
    assert chunks is not None
    assert len(chunks.starts) > 9
    own = [text[a:b] for a, b in zip(chunks.starts, chunks.ends, strict=True)]
    assert all(piece.startswith("Sentence") and piece.endswith(".") for piece in own)
    alone = TextTokenizer(tokenizer("bert_mean"), 512, "error").encode(own, "query: ")
    assert tokens.ids.tolist() == alone.ids.tolist()
    assert chunks.n_tokens.tolist() == np.diff(tokens.offsets).tolist()
    assert max(chunks.n_tokens) <= 40


def test_a_long_text_is_tokenized_in_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(200))
    whole = ChunkTokenizer(tokenizer("bert_mean"), 40, 0).encode([text])
    monkeypatch.setattr("pipeline.tokenize.encodings._SECTION_CHARS", 500)
    parts = ChunkTokenizer(tokenizer("bert_mean"), 40, 0).encode([text])
    assert parts.ids.tolist() == whole.ids.tolist()
    assert parts.chunks is not None
    assert whole.chunks is not None
    assert parts.chunks.starts.tolist() == whole.chunks.starts.tolist()
    assert parts.chunks.ends.tolist() == whole.chunks.ends.tolist()


@pytest.mark.parametrize("blank", [" ", "\n", "\0"])
@pytest.mark.parametrize("prompt", ["", "  ", "query: "])
def test_a_text_that_is_blank_at_first_is_read_to_its_end(
    blank: str, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tokenize.encodings._SECTION_CHARS", 200)
    text = " ".join(f"Sentence number {i} is here." for i in range(30))
    for window in (None, 60):
        chunker = ChunkTokenizer(tokenizer("bert_mean"), 24, 0, window=window, prompt=prompt)
        plain, late, none = (chunker.encode([each]) for each in (text, blank * 299 + text, blank))
        assert late.ids.tolist() == plain.ids.tolist()
        assert late.offsets.tolist() == plain.offsets.tolist()
        chunks, others = late.chunks, plain.chunks
        assert chunks is not None
        assert others is not None
        assert chunks.ends.tolist() == [299 + end for end in others.ends.tolist()]
        assert chunks.starts[1:].tolist() == [299 + start for start in others.starts[1:].tolist()]
        assert len(none.lengths) == 1


class Recorder:
    """A tokenizer that keeps how many characters it was given at once."""

    def __init__(self, name: str) -> None:
        self.at_once: list[int] = []
        self._real = tokenizer(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def encode_batch(self, given: list[str]) -> object:
        self.at_once.append(sum(map(len, given)))
        return self._real.encode_batch(given)


def test_of_many_long_texts_few_are_tokenized_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tokenize.encodings._SECTION_CHARS", 500)
    monkeypatch.setattr("pipeline.tokenize.chunk_texts._CHARS_AT_ONCE", 2000)
    long = [" ".join(f"Text {n}, sentence {i}." for i in range(100)) for n in range(20)]
    given_texts = [None, *long, "short", None, "", "last"]
    recorder = Recorder("bert_mean")
    tokens = ChunkTokenizer(recorder, 40, 0).encode(given_texts)  # type: ignore[arg-type]
    assert len(recorder.at_once) > 3
    assert max(recorder.at_once) <= 2500
    alone = [ChunkTokenizer(tokenizer("bert_mean"), 40, 0).encode([text]) for text in given_texts]
    assert tokens.ids.tolist() == [number for each in alone for number in each.ids.tolist()]
    assert tokens.n_tokens.tolist() == [each.n_tokens[0] for each in alone]
    assert list(tokens.errors) == [0, 22]


@pytest.mark.parametrize("text", ["!" * 200_000, "." * 200_000, "?) " * 80_000, "\n\r" * 100_000])
def test_no_text_is_slow(text: str) -> None:
    starts = np.arange(0, len(text), 4)
    begun = time.process_time()
    cut_chunks(text, starts, starts + 4, 64, 16)
    assert time.process_time() - begun < 2
