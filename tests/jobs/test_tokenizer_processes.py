"""A job whose tokens come from processes of another `tokenizers` has the values of one without.

The other library is a package of this test that wraps the installed one, so that it can lie.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commandline import Bei, forget_the_user, read_output, typed
from corpora import GOLDENS, TINY, parts, write_parquet

ROWS = 1500

_LIBRARY = """
import json, os, signal, sys, tempfile
from pathlib import Path

here = Path(__file__).parents[1]
sys.path.remove(str(here))
del sys.modules["tokenizers"]
import tokenizers
Installed = tokenizers.Tokenizer
behaviour = (here / "behaviour").read_text()
if behaviour == "broken":
    raise ImportError("a symbol is missing")


class Tokenizer:
    calls = 0

    @classmethod
    def from_file(cls, path):
        content = json.loads(Path(path).read_text())
        if behaviour == "tampered":
            vocabulary = content["model"]["vocab"]
            vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
        self = cls()
        self.inner = Installed.from_str(json.dumps(content))
        return self

    def encode_batch(self, texts, *, add_special_tokens, encode_special_tokens):
        Tokenizer.calls += 1
        if behaviour == "dies" and Tokenizer.calls > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


tokenizers.Tokenizer, tokenizers.__version__ = Tokenizer, "1.9.0"
if behaviour == "old":
    tokenizers.__version__ = "0.19.1"
sys.modules["tokenizers"] = tokenizers
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "tokenizers").mkdir()
    (folder / "tokenizers/__init__.py").write_text(_LIBRARY)
    return folder


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a library that behaves in some way."""

    def behave(how: str) -> None:
        (folder / "behaviour").write_text(how)
        monkeypatch.setenv("BEI_JOBS_TOKENIZERS_DIR", str(folder))

    return behave


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("corpus") / "corpus.parquet", ROWS)


@pytest.fixture(scope="module")
def plain(corpus: Path, checkpoint_cache: Path) -> Path:
    """The output of a job without processes."""
    with pytest.MonkeyPatch.context() as patch:
        forget_the_user(patch, corpus.parent / "state", checkpoint_cache)
        output = corpus.parent / "plain"
        words = (corpus, "--output", output, "--model", TINY, "--device", "cpu", "--quiet")
        assert typed("submit", *words).code == 0
    return output


@pytest.fixture
def expected(bei: Bei, plain: Path) -> pa.Table:
    return read_output(bei, plain)


def recorded(output: Path) -> set[str | None]:
    """What the parts say of their tokenizer."""
    found = [pa.ipc.open_file(output / name).schema.metadata for name in parts(output)]
    return {(each.get(b"bei.tokenizer") or b"").decode() or None for each in found}


def test_without_the_setting_nothing_is_said(submit: Bei, plain: Path, tmp_path: Path) -> None:
    assert recorded(plain) == {None}
    done = submit(write_parquet(tmp_path / "c.parquet", 2), "--json")
    assert "token-ids" not in done.json["choices"]


def test_another_library_tokenizes_and_the_job_says_so(
    submit: Bei,
    bei: Bei,
    corpus: Path,
    tmp_path: Path,
    library: Any,
    plain: Path,
    expected: pa.Table,
) -> None:
    library("good")
    done = submit(corpus, "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["choices"]["token-ids"]["value"] == "tokenizers 1.9.0"
    assert "on the first 1,000 rows" in done.json["choices"]["token-ids"]["reason"]
    assert "warnings" not in done.json
    assert recorded(tmp_path / "out") == {"tokenizers 1.9.0"}
    assert read_output(bei, tmp_path / "out").equals(expected)
    again = submit(corpus, "--output", plain, "--json")  # it is the same space
    assert again.json["rows"]["reused"] == ROWS


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("tampered", "the tokens of row 1 of this job differ"),
        ("dies", "killed by signal 9"),
        ("broken", "a symbol is missing"),
        ("old", "0.19.1, and no 1.x"),
    ],
)
def test_a_library_that_fails_costs_a_line_and_no_value(
    submit: Bei,
    bei: Bei,
    corpus: Path,
    tmp_path: Path,
    library: Any,
    expected: pa.Table,
    behaviour: str,
    why: str,
) -> None:
    library(behaviour)
    done = submit(corpus, "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (warning,) = done.json["warnings"]
    assert why in warning
    assert warning in done.err  # with --quiet too
    assert read_output(bei, tmp_path / "out").equals(expected)
    started = behaviour in ("tampered", "dies")
    tokenizers = {each and each.partition(",")[0] for each in recorded(tmp_path / "out")}
    assert tokenizers == {"tokenizers 1.9.0" if started else None}


def test_a_task_that_needs_more_than_ids_says_that_it_keeps_its_tokenizer(
    submit: Bei, tmp_path: Path, library: Any
) -> None:
    library("good")
    corpus = write_parquet(tmp_path / "c.parquet", 4)
    done = submit(corpus, "--task", "tag", "--model", GOLDENS / "ner_bert", "--json")
    assert done.code == 0, done.err
    choice = done.json["choices"]["token-ids"]
    assert choice["value"].startswith("tokenizers 0.2")
    assert "more of it than token ids" in choice["reason"]


def test_pairs_are_scored_as_without(
    submit: Bei, bei: Bei, tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [["one document", f"another of {row}"] for row in range(20)]
    corpus = write_parquet(tmp_path / "c.parquet", 20, query=["a query"] * 20, documents=documents)
    words = (corpus, "--task", "rerank", "--model", GOLDENS / "bge_reranker_xlmr", "--json")
    library("good")
    done = submit(*words, "--output", tmp_path / "out")
    assert done.json["choices"]["token-ids"]["value"] == "tokenizers 1.9.0"
    monkeypatch.delenv("BEI_JOBS_TOKENIZERS_DIR")
    assert submit(*words, "--output", tmp_path / "plain").code == 0
    assert read_output(bei, tmp_path / "out").equals(read_output(bei, tmp_path / "plain"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BEI_JOBS_TOKENIZERS_DIR", "/nowhere"),
        ("BEI_JOBS_TOKENIZER_PROCESSES", "0"),
        ("BEI_JOBS_TOKENIZER_PROCESSES", "many"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(
    submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    done = submit(corpus)
    assert done.code == 2
    assert name in done.screen[0]
