"""`bei-jobs rehearse` says what a change would do, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, forget_the_user, read_output, typed
from corpora import GOLDENS, ROOT, TINY
from pages import looked_at

CORPUS = "memory://rehearse/corpus.parquet"
SPLADE = ROOT / "tests" / "sparse_goldens" / "splade_bert"
ROWS = 60
#: What a run does not decide alone.
MEASURED = ("rate", "seconds", "price")


def corpus_texts() -> list[str | None]:
    words = ["red", "green", "blue", "small", "large", "round", "flat", "old", "new", "fast"]
    rng = np.random.default_rng(3)
    texts: list[str | None] = [
        " ".join(rng.choice(words, 4 + row % 9)) + f" <i>number {row}" for row in range(ROWS)
    ]
    texts[7], texts[8], texts[9] = None, texts[10], "<script>alert('x')</script> " + "far " * 300
    return texts


def in_memory(name: str, **columns: Any) -> str:
    """A Parquet file in this process's memory: then no process of a device is started."""
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    uri = f"memory://rehearse/{name}"
    fsspec.filesystem("memory").pipe(uri.removeprefix("memory:/"), data.getvalue())
    return uri


def write_corpus() -> None:
    ids = [f"<b>{row}" for row in range(ROWS)]
    in_memory("corpus.parquet", id=ids, text=corpus_texts())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """queries.tsv and qrels.txt in TREC's form: each query is a text of the corpus."""
    folder = tmp_path_factory.mktemp("judged")
    rows = range(20, 30)
    texts = corpus_texts()
    (folder / "queries.tsv").write_text("".join(f"q{r}\t{texts[r]}\n" for r in rows))
    (folder / "qrels.txt").write_text(
        "".join(f"q{r} 0 <b>{r} 1\n" for r in rows) + "q20 0 nowhere 0\n"
    )
    return folder


def rehearsed(*words: object) -> Outcome:
    return typed("rehearse", *words, "--device", "cpu", "--json")


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_cache: Path
) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        forget_the_user(patch, tmp_path_factory.mktemp("state"), checkpoint_cache)
        patch.setattr("workers.calibrate.SECONDS", 0.0)
        patch.setattr("workers.calibrate.WARM_UP_SECONDS", 0.0)
        temporary = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(temporary))
        write_corpus()
        yield patch


@pytest.fixture(scope="module")
def done(machine: pytest.MonkeyPatch, judged: Path) -> Outcome:
    """A rehearsal with queries, and its page beside them; price of an hour: 2."""
    return rehearsed(
        CORPUS, "--from", TINY, "--to", "dimensions=16", "--queries", judged / "queries.tsv",
        "--qrels", judged / "qrels.txt", "--report", judged / "page.html", "--price-per-hour", 2,
    )  # fmt: skip


def test_what_a_rehearsal_says(done: Outcome) -> None:
    assert done.code == 0, done.err
    found = done.json
    sample = found["sample"]
    assert sample["corpus_rows"] == ROWS
    assert (sample["duplicates"], sample["without_vector"]) == (1, 1)
    assert sample["compared"] == sample["rows"] - 1 == ROWS - 2
    assert list(sample["reasons"].values()) == [2]  # the blank text, on both sides
    before, after = found["from"], found["to"]
    assert (before["vectors"]["dimensions"], after["vectors"]["dimensions"]) == (32, 16)
    assert (before["bytes"]["vector"], after["bytes"]["vector"]) == (
        pytest.approx(128, rel=0.02), pytest.approx(64, rel=0.02)
    )  # fmt: skip
    assert before["tokens"] == after["tokens"]
    assert before["truncated"]["texts"] == 1
    assert before["price"] == pytest.approx(before["seconds"] / 3600 * 2, abs=1e-4)
    assert [one["k"] for one in found["neighbours"]] == [1, 10]
    assert "neighbours of 100 are left out" in done.err
    for one in found["neighbours"]:
        assert sum(one["rows_by_kept"]) == sample["compared"]
    assert found["retrieval"]["queries"] == 10
    assert found["retrieval"]["metrics"]["nDCG@10"]["from"]["mean"] == 1
    assert found["verdict"].endswith(".")


def test_the_rows_that_change_most_come_first(done: Outcome) -> None:
    changed = done.json["changed"]
    kept = [one["kept"] for one in changed]
    assert kept == sorted(kept)
    of_ten = done.json["neighbours"][1]["rows_by_kept"]
    assert kept[0] == next(count for count, rows in enumerate(of_ten) if rows)
    for one in changed:
        both = [{n["id"] for n in one[side] if n["on_both_sides"]} for side in ("from", "to")]
        assert one["id"] not in both[0] | both[1]


def test_the_page_is_complete_in_itself_and_escapes_what_the_corpus_says(
    done: Outcome, judged: Path
) -> None:
    page = (judged / "page.html").read_text()
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "10 to 11" not in page  # of 10 neighbours
    assert "<td>10</td>" in page
    assert "tokens of a text: limit" in page  # without the indentation of the terminal
    assert done.json["verdict"].split(";")[0][-40:] in page.replace("&#39;", "'")


@pytest.mark.parametrize(("dark", "width"), [(False, 1000), (True, 500)])
def test_the_page_in_a_browser(
    done: Outcome, judged: Path, tmp_path: Path, *, dark: bool, width: int
) -> None:
    seen = looked_at((judged / "page.html").read_text(), tmp_path, dark=dark, width=width)

    assert done.code == 0
    assert seen["dark"] is dark
    assert seen["violations"] == []
    assert seen["console"] == []
    assert seen["wider"] <= 0


def test_nothing_is_left_behind_and_nothing_remembered(done: Outcome, bei: Bei) -> None:
    assert os.listdir(tempfile.gettempdir()) == []
    assert json.loads(bei("list", "--json").out)["jobs"] == []


def stable(report: dict[str, Any]) -> dict[str, Any]:
    """What two runs must agree in."""
    sides = ("from", "to")
    rest = {key: value for key, value in report.items() if key not in (*sides, "verdict")}
    of_sides = [{k: v for k, v in report[s].items() if k not in MEASURED} for s in sides]
    for side in of_sides:  # parts say how long they took
        side["bytes"] = {**side["bytes"], "output": round(side["bytes"]["output"], -3)}
    return {**rest, "sides": of_sides}


def test_the_same_command_draws_and_finds_the_same(
    done: Outcome, judged: Path, tmp_path: Path
) -> None:
    """Also where queries and judgements are Parquet, with the names that BEIR has."""
    rows = range(20, 30)
    queries = {"_id": [f"q{r}" for r in rows], "text": [corpus_texts()[r] for r in rows]}
    qrels = {"query-id": queries["_id"], "corpus-id": [f"<b>{r}" for r in rows], "score": [1] * 10}
    pq.write_table(pa.table(queries), tmp_path / "q.parquet")
    pq.write_table(pa.table(qrels), tmp_path / "r.parquet")

    again = rehearsed(
        CORPUS, "--from", TINY, "--to", f"{TINY} dimensions=16",
        "--queries", tmp_path / "q.parquet", "--qrels", tmp_path / "r.parquet",
    )  # fmt: skip

    assert stable(again.json) == stable(done.json)


def test_values_are_those_that_submit_writes_and_an_output_serves_as_a_side(
    machine: pytest.MonkeyPatch, bei: Bei, tmp_path: Path
) -> None:
    """Neighbours are those of the vectors of an output, whose rows are not computed again."""
    output = tmp_path / "c.embed"
    words = ("--model", TINY, "--device", "cpu", "--quiet", "--max-failed-rows", 1)
    assert bei("submit", CORPUS, "--output", output, *words).code == 3
    table = read_output(bei, output)
    good = [row for row in range(ROWS) if row not in (7, 10)]  # row 10 repeats row 8
    vectors = np.stack(table["embedding"].take(pa.array(good)).to_pylist()).astype(np.float32)
    binary = np.where(vectors > 0, 1, -1)
    kept = [len(near(vectors, row, 10) & near(binary, row, 10)) for row in range(len(good))]

    found = rehearsed(CORPUS, "--from", output, "--to", "output-dtype=binary").json

    assert found["neighbours"][1]["rows_by_kept"] == np.bincount(kept, minlength=11).tolist()
    assert found["to"]["vectors"]["compared_by"] == "hamming"
    assert found["to"]["bytes"]["vector"] < 5
    scores = [one["score"] for one in found["changed"][0]["to"]]
    assert scores == sorted(scores)  # bits that differ
    assert scores[-1] <= 32
    assert (found["from"]["reused"], found["to"]["reused"]) == (len(good), 0)


def near(vectors: np.ndarray, row: int, k: int) -> set[int]:
    """The k nearest rows by brute force, equal ones in their order."""
    lengths = np.linalg.norm(vectors, axis=1)
    scores = [
        (round(float(vectors[row] @ vectors[other] / lengths[row] / lengths[other]), 6), -other)
        for other in range(len(vectors))
        if other != row
    ]
    return {-other for _, other in sorted(scores, reverse=True)[:k]}


@pytest.mark.parametrize(
    ("start", "end", "rule"),
    [
        (SPLADE, "sparse-top-k=2", "sparse dot"),
        (f"{TINY} max-length=64", "long-texts=chunk chunk-tokens=16", "cosine"),
    ],
)
def test_sparse_vectors_and_chunks_are_compared(
    machine: pytest.MonkeyPatch, start: object, end: str, rule: str
) -> None:
    done = rehearsed(CORPUS, "--from", start, "--to", end, "--rows", 20)

    assert done.code == 0, done.err
    assert done.json["to"]["vectors"]["compared_by"] == rule
    assert 0 < done.json["neighbours"][1]["mean"] < 1


def test_reasons_that_differ_in_numbers_alone_are_one(machine: pytest.MonkeyPatch) -> None:
    found = rehearsed(CORPUS, "--from", TINY, "--to", "max-length=32 long-texts=error").json

    (blank, long) = sorted(found["sample"]["reasons"].items(), key=lambda item: "tokens" in item[0])
    assert "tokens" in long[0]
    assert long[1] > 2
    assert blank[1] == 2


def test_job_files_are_sides(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Theirs are the inputs, the columns and the options; and what follows comes on top."""
    today = tmp_path / "today.toml"
    today.write_text(
        f'inputs = ["{CORPUS}"]\nmodel = "{TINY}"\noutput = "nowhere"\nprompt = "a "\nkeep = ["x"]'
    )

    done = rehearsed("--from", f"{today} prompt='b c '", "--to", today, "--rows", 12)

    assert done.code == 0, done.err
    assert (done.json["from"]["prompt"], done.json["to"]["prompt"]) == ("b c ", "a ")
    assert done.json["sample"]["rows"] == 12
    assert "--prompt=b c " in done.json["from"]["submit"]


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("--from", TINY, "--to", TINY), "compute the same values", "dimensions=128"),
        (("--from", TINY, "--to", "keep=lang"), "keep decides no value", "dimensions"),
        (("--from", TINY, "--to", "dimension=8"), "no option dimension", "mean dimensions?"),
        (("--from", TINY, "--to", ROOT / "README.md"), "is a file, and no model", "directory"),
        (("--from", TINY, "--to", "colour=red"), "no option colour", "takes aggregation"),
        (("--from", TINY, "--to", "report=a.html"), "report decides no value", "dimensions"),
        (("--from", TINY, "--to", "dimensions=ten"), "--to", "whole number of at least 1"),
        (("--from", TINY, "--to", "dimensions=99"), "more than the 32", "at most 32"),
        (
            ("--from", TINY, "--to", "precision=int88"),
            "precision=int88: --precision 'int88' is not one of auto",
            "did you mean int8?",
        ),
        (
            ("--from", TINY, "--to", "dimensions=8", "--report", "a.pdf"),
            "a.pdf is not the name of a page",
            ".html",
        ),
        (("--from", f"{TINY} {TINY}", "--to", "x=1"), "names", "quotes"),
        (("--from", f"{TINY} prompt='a", "--to", "x=1"), "No closing quotation", "quotes"),
        (("--from", TINY, "--to", "dimensions=16,8"), "several vectors", "choose one"),
        (
            ("--from", GOLDENS / "bge_reranker_xlmr", "--to", TINY),
            "cannot embed: it is a reranker",
            "rerank",
        ),
        (("--from", TINY, "--to", "dimensions=8", "--queries", "q"), "needs --qrels", "relevant"),
        (
            ("--from", TINY, "--to", "dimensions=8", "--text-column", "body"),
            "no column 'body'",
            "text",
        ),
    ],
)
def test_a_wrong_side_is_told_with_a_next_step(
    machine: pytest.MonkeyPatch, words: tuple[object, ...], said: str, hint: str
) -> None:
    done = rehearsed(CORPUS, *words)

    assert done.code in (1, 2), done.out
    assert said in done.json["error"]
    assert hint in done.json["hint"], done.json
    assert len(done.screen) <= 30


def test_a_page_that_cannot_be_written_loses_no_result(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = (CORPUS, "--from", TINY, "--to", "dimensions=8", "--rows", 12, "--report")

    new = rehearsed(*words, tmp_path / "new" / "page.html")
    assert new.code == 0, new.err
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!DOCTYPE html>")

    done = rehearsed(*words, tmp_path / "file" / "page.html")
    assert done.code == 0, done.err
    assert done.json["verdict"]
    assert "--report: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("qrels.txt", "q20 0 nowhere 1\n", "1 of 1 relevant documents that INPUT does not have"),
        ("qrels.txt", "q99 0 <b>20 1\n", "1 of 1 queries that --queries does not have: q99"),
        ("qrels.txt", "q20 0 <b>20 0\n", "names no relevant document"),
        ("qrels.txt", "q20 <b>20\n", "line 1 of"),
        ("qrels.txt", "q20 0 <b>20 high\n", "the relevance 'high'"),
        ("queries.tsv", "q20\tone\nq20\ttwo\n", "two texts for the query q20"),
        ("queries.tsv", "q20\n", "line 1 of"),
        ("queries.parquet", "no Parquet", "cannot be read"),
        ("queries.csv", "qid,question\nq20,one\n", "no column for the text of a query"),
    ],
)
def test_wrong_judgements_are_told(
    machine: pytest.MonkeyPatch, judged: Path, tmp_path: Path, name: str, content: str, said: str
) -> None:
    shutil.copytree(judged, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(content)
    queries = name if name.startswith("queries") else "queries.tsv"

    done = rehearsed(
        CORPUS, "--from", TINY, "--to", "dimensions=8", "--queries", tmp_path / queries,
        "--qrels", tmp_path / "qrels.txt",
    )  # fmt: skip

    assert done.code == 1, done.out
    assert said in done.json["error"]
    assert done.json["hint"]


def test_metrics_need_their_extra(
    machine: pytest.MonkeyPatch, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    files = ("--queries", judged / "queries.tsv", "--qrels", judged / "qrels.txt")

    done = rehearsed(CORPUS, "--from", TINY, "--to", "dimensions=8", *files)

    assert done.code == 2
    assert "evaluate" in done.json["hint"]
