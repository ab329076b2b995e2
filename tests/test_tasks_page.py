"""What docs/tasks.md shows of reading an output works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import typed
from corpora import ROOT, TINY, texts

ROWS = 20
PAGE = (ROOT / "docs/tasks.md").read_text()


def block(heading: str) -> str:
    """The Python of a section."""
    section = re.split(rf"^##+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
    (found,) = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    return str(found)


def run(folder: Path, code: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture
def articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files without an id."""
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "state"))
    for name in "ab":
        table = pa.table({"text": texts(ROWS), "title": [f"{name}{n}" for n in range(ROWS)]})
        (tmp_path / "articles").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"articles/{name}.parquet")
    return tmp_path / "articles"


def embedded(articles: Path, *words: object) -> None:
    done = typed("submit", articles, "--model", TINY, "--device", "cpu", "--quiet", *words)
    assert done.code == 0, done.err


def test_rows_without_an_id_are_joined_with_their_files(articles: Path) -> None:
    embedded(articles, "--keep", "title")
    check = (
        "rows = duckdb.sql('SELECT j.title, v.title, j.embedding = v.embedding FROM joined AS j "
        "JOIN vectors AS v ON j.title = v.title').fetchall()\n"
        f"assert len(rows) == joined.shape[0] == {2 * ROWS}\n"
        "assert all(same for _, _, same in rows)\n"
    )
    run(articles.parent, block("Without an id").replace("/data/", f"{articles.parent}/") + check)


def test_small_vectors_are_unpacked(articles: Path) -> None:
    for dtype in ("float32", "int8", "binary"):
        name = {"binary": "bits"}.get(dtype, dtype)
        embedded(articles, "--output", f"{articles}.{name}", "--output-dtype", dtype)
    check = f"""
exact = pl.read_ipc("articles.float32/*.arrow")["embedding"].to_numpy()
assert exact.shape == vectors.shape == signs.shape == ({2 * ROWS}, 32)
assert vectors.dtype == np.float32 and packed.dtype == np.uint8
assert (np.abs(vectors - exact) <= scales / 2 + 1e-7).all()
assert np.allclose(scales[:, 0] * 127, np.abs(exact).max(axis=1))
assert (signs == (exact > 0)).all()
assert (distances == ((exact > 0) != (exact[0] > 0)).sum(axis=1)).all() and distances.any()
"""
    run(articles.parent, block("Smaller vectors") + check)


def test_sparse_vectors_are_read_as_a_matrix(articles: Path) -> None:
    model = ROOT / "tests/sparse_goldens/splade_bert"
    output = articles.with_name("articles.sparse")
    words = ("--model", model, "--device", "cpu", "--quiet", "--output", output)
    assert typed("submit", articles, *words).code == 0
    check = f"""
assert vectors.shape[0] == {2 * ROWS} and vectors.nnz == rows["sparse_values"].list.len().sum()
first = rows["sparse_values"][0].to_numpy()
assert np.isclose(scores.toarray()[0, 0], (first * first).sum())
"""
    run(articles.parent, "import numpy as np\n" + block("Sparse vectors") + check)


def test_vectors_of_tokens_score_texts_as_the_page_says(articles: Path) -> None:
    words = ("--model", ROOT / "tests/multi_goldens/colbert_v2", "--device", "cpu", "--quiet")
    for name, more in (("articles", ()), ("queries", ("--kind", "query"))):
        output = ("--output", articles.with_name(f"{name}.multi"), "--output-dtype", "float16")
        assert typed("submit", articles, *words, *output, *more).code == 0
    check = f"""
assert len(scores) == {2 * ROWS} and scores[0] == max(scores)
"""
    run(articles.parent, block("A vector for each token") + check)


def test_the_chunks_of_a_shipped_text_are_read_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples/books.jsonl", tmp_path / "examples")
    section = PAGE.split("## Long texts\n")[1].split("\n## ")[0]
    (command,) = re.findall(r"^bei-jobs (submit .*)$", section, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    done = typed(*command.split(), "--model", TINY, "--device", "cpu", "--quiet", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == 2
    assert done.json["chunks"] > 100
    check = (
        "every = chunks.collect()\n"
        "assert every['title'].n_unique() == 2 and every['error'].null_count() == len(every)\n"
        "first = texts[every['id'][0]]\n"
        "assert first[every['chunk_start'][0]:].startswith('The Declaration of Independence')\n"
    )
    run(tmp_path, block("Long texts") + check)
