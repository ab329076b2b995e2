"""Token ids from processes are the tokenizer's own, and a process that ends is told at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pyarrow as pa
import pytest
from corpora import GOLDENS, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers_compared import SPECIAL, odd_texts

from pipeline.encoder.card import open_card
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.tokenize.pairs import PairTokenizer
from pipeline.tokenize.processes import ProcessesLost, TokenizerProcesses
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens

#: WordPiece, Unigram with Metaspace, byte-level BPE with two kinds of special tokens, and BPE that
#: adds none.
FAMILIES = ("bert_mean", "e5_xlmr", "roberta_mean", "qwen3_causal_last", "voyage_nano")
LIMIT = 12
TIMEOUT_S = 100

Started = Callable[[str], TokenizerProcesses]
any_text = st.text(max_size=60) | st.lists(
    st.sampled_from([*SPECIAL, " ", "\t", "word", "Ünï", "x" * 40, "🎉", "\0", "。", "word " * 90])
).map("".join)


@cache
def parsed(golden: str) -> Tokenizer:
    """For tests to which it does not matter what other ones set."""
    return tokenizer_of(golden)


def tokenizer_of(golden: str) -> Tokenizer:
    return load_tokenizer(open_card(str(GOLDENS / golden)))


@cache
def own_tokenizer(golden: str, truncate: Any) -> TextTokenizer:
    return TextTokenizer(tokenizer_of(golden), LIMIT, truncate)


@pytest.fixture(scope="module", params=["0.2x", "1.x"])
def library(request: pytest.FixtureRequest) -> Path | None:
    if request.param == "0.2x":
        return None
    folder: Path = request.getfixturevalue("tokenizers_1")
    return folder


@pytest.fixture(scope="module")
def started(library: Path | None) -> Iterator[Started]:
    """Two processes for a checkpoint's tokenizer, which serve all tests of this file."""
    running: dict[str, TokenizerProcesses] = {}

    def start(golden: str) -> TokenizerProcesses:
        if golden not in running:
            running[golden] = TokenizerProcesses(2, library)
            running[golden].start(tokenizer_of(golden))
        return running[golden]

    yield start
    for each in running.values():
        each.close()


def same(one: Tokens, other: Tokens) -> bool:
    arrays = ("ids", "offsets", "row_of", "n_tokens", "truncated")
    return one.errors == other.errors and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in arrays
    )


@pytest.mark.parametrize("golden", FAMILIES)
def test_two_thousand_odd_texts_have_the_tokenizers_own_tokens(
    started: Started, golden: str
) -> None:
    plain, texts = tokenizer_of(golden), odd_texts()
    by = TextTokenizer(tokenizer_of(golden), 4096, "right", started(golden))
    assert by.uses_ids
    tokens = by.encode(texts)
    expected = [each.ids for each in plain.encode_batch(texts)]
    assert tokens.ids.tolist() == [one for ids in expected for one in ids]
    assert tokens.n_tokens.tolist() == [len(ids) for ids in expected]


@pytest.mark.parametrize("truncate", ["right", "left", "error"])
@given(texts=st.lists(st.none() | any_text, max_size=8), prompt=st.sampled_from(["", "q: "]))
@settings(max_examples=20)
def test_whatever_the_texts_a_cut_is_the_tokenizers_own(
    started: Started, truncate: Any, texts: list[str | None], prompt: str
) -> None:
    for golden in FAMILIES:
        own = own_tokenizer(golden, truncate)
        by = TextTokenizer(parsed(golden), LIMIT, truncate, started(golden))
        assert same(by.encode(texts, prompt), own.encode(texts, prompt))


@given(texts=st.lists(any_text, min_size=2, max_size=8))
@settings(max_examples=25)
def test_pairs_have_the_tokenizers_own_tokens(started: Started, texts: list[str]) -> None:
    row_of = np.zeros(len(texts) - 1, dtype=np.int64)
    golden = "bge_reranker_xlmr"
    found = [
        PairTokenizer(parsed(golden), 24, "right", typed=True, ids=ids).encode(
            texts[:1], texts[1:], row_of, {}
        )
        for ids in (None, started(golden))
    ]
    assert same(*found)


def test_special_tokens_that_are_split_are_split_there_too(started: Started) -> None:
    tokenizer = tokenizer_of("roberta_mean")
    tokenizer.encode_special_tokens = True
    texts = ["</s> <mask>", "a<s>b"]
    with closing(TokenizerProcesses(1, started("roberta_mean").library)) as processes:
        processes.start(tokenizer)
        ids, _ = processes.encode(pa.array(texts, pa.large_string()))
    expected = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert ids.tolist() == [one for each in expected for one in each.ids]


def test_a_text_that_is_not_utf8_costs_only_its_row(started: Started) -> None:
    offsets = pa.array([0, 3, 6, 9], pa.int32()).buffers()[1]
    column = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"one\xff\xfe\xfdtwo"))
    by = TextTokenizer(tokenizer_of("bert_mean"), LIMIT, "right", started("bert_mean"))
    tokens = by.encode_column(column)
    assert list(tokens.errors) == [1]
    assert "not valid UTF-8" in tokens.errors[1]
    assert tokens.row_of.tolist() == [0, 2]
    assert same(by.encode_column(column.slice(2)), by.encode(["two"]))


def test_texts_larger_than_the_shared_memory_make_it_grow(started: Started) -> None:
    texts = ["short", "word " * 250_000, "short again"]
    by = TextTokenizer(tokenizer_of("voyage_nano"), 10**7, "right", started("voyage_nano"))
    tokens = by.encode(texts)
    assert tokens.n_tokens[1] >= 250_000
    assert same(
        by.encode(texts[::2]),
        TextTokenizer(tokenizer_of("voyage_nano"), 99, "right").encode(texts[::2]),
    )


def pids(processes: TokenizerProcesses) -> list[int]:
    return [each._process.pid for each in processes._processes]


def test_a_process_that_is_killed_is_told_and_none_is_left() -> None:
    processes = TokenizerProcesses(2, None)
    processes.start(tokenizer_of("bert_mean"))
    victim, other = pids(processes)
    os.kill(victim, signal.SIGKILL)
    texts = pa.array(["some text"] * 10, pa.large_string())
    with pytest.raises(ProcessesLost, match="killed by signal 9"):
        processes.encode(texts)
    assert not psutil.pid_exists(other)
    with pytest.raises(ProcessesLost):
        processes.encode(texts)


@pytest.mark.parametrize(
    "broken",
    ["subprocess.Popen", "tempfile.TemporaryFile", "os.memfd_create"],
)
def test_a_machine_without_room_for_processes_is_told_and_nothing_is_left(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, descriptors = tokenizer_of("bert_mean"), psutil.Process().num_fds()
    error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    monkeypatch.setattr(broken, Mock(side_effect=error), raising=False)
    with pytest.raises(ProcessesLost, match="Resource temporarily unavailable"):
        TokenizerProcesses(2, None).start(tokenizer)
    assert psutil.Process().num_fds() == descriptors


_PARENT = """
import sys
from pathlib import Path
from tokenizers import Tokenizer
from pipeline.tokenize.processes import TokenizerProcesses
import pyarrow as pa
processes = TokenizerProcesses(1, Path(sys.argv[2]) if sys.argv[2] else None)
processes.start(Tokenizer.from_file(sys.argv[1]))
print(processes._processes[0]._process.pid, flush=True)
while True:
    processes.encode(pa.array(["word " * 500_000], pa.large_string()))
"""


def test_processes_end_with_their_parent_also_while_they_tokenize(library: Path | None) -> None:
    file = GOLDENS / "bert_mean" / "tokenizer.json"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, file, str(library or "")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise ImportError('no such symbol')", "no such symbol"),
        ("import os; os._exit(7)", "exit code 7"),
        ("__version__ = '0.19.1'\nclass Tokenizer: from_file = print", "NoneType"),
    ],
)
def test_a_library_that_cannot_be_used_is_named(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers/__init__.py").write_text(source)
    with pytest.raises(ProcessesLost, match=why):
        TokenizerProcesses(1, tmp_path).start(tokenizer_of("bert_mean"))
