"""Pages of all kinds of outputs: early, unfinished, damaged, large, remote, and of other tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei
from corpora import GOLDENS, ROOT, parts, write_parquet
from fixtures_s3 import S3Server
from pages import Page, written

from jobs.report import page as pages
from jobs.report.gather import gather
from jobs.report.page import MAX_BYTES, make_page
from pipeline.output.output import find_run

RECORDED = ROOT / "tests/compatibility/recorded"
SCRIPT = "<script>alert(1)</script>"


@pytest.mark.usefixtures("s3")  # where its input was, and is no longer
def test_outputs_of_the_first_version(bei: Bei, tmp_path: Path) -> None:
    said = written(bei, RECORDED / "finished", tmp_path).said
    assert "was not kept by the version" in said
    assert "have no row keys" in said
    assert "do not say how long each stage worked" in said
    assert "could not be read from the inputs" in said


def test_entities_of_an_output_of_the_first_version(bei: Bei, tmp_path: Path) -> None:
    page = written(bei, RECORDED / "tagged", tmp_path)
    assert "tokens: label" in page.said
    assert "tokens: score" in page.said


def test_a_run_that_has_not_begun(bei: Bei, tmp_path: Path) -> None:
    said = written(bei, RECORDED / "queued", tmp_path).said
    assert "This run is not finished (queued): 0 of" in said
    assert "This run computed nothing yet" in said
    assert "no row could be read" in said.lower()


def test_a_run_that_failed_half_way(bei: Bei, finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    for name in ("manifest.json", "parts"):
        (output / "_bei/runs/1" / name).unlink()
    (output / parts(output)[1]).unlink()
    failed = {"at": "2026-11-28T00:00:00Z", "reason": f"no {SCRIPT}", "hint": ""}
    (output / "_bei/runs/1/failed.json").write_text(json.dumps(failed))
    said = written(bei, output, tmp_path).said
    assert "This run is not finished (failed): 20 of 30 rows are there" in said
    assert f"no {SCRIPT}" in said
    for outcome in ("computed 19", "without a result 1", "not done yet 10"):
        assert outcome in said


def test_a_run_whose_parts_are_too_many_to_read_has_no_price_per_token(
    bei: Bei, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    for name in ("manifest.json", "parts"):
        (output / "_bei/runs/1" / name).unlink()
    monkeypatch.setattr("jobs.report.parts._READ", 2)
    page = tmp_path / "page.html"
    assert bei("report", output, page, "--price-per-hour", 2).code == 0
    said = Page(page.read_text()).said
    assert "at 2 per device-hour" in said
    assert "Rates are those of the 2 parts that were read" in said
    assert "per million" not in said


def test_a_run_that_copied_every_row_has_no_rate_and_no_cost(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    assert submit(corpus).code == 0
    corpus.rename(tmp_path / "renamed.parquet")
    output = tmp_path / "corpus.embed"
    again = submit(tmp_path / "renamed.parquet", "--output", output, "--replace")
    assert again.code == 0, again.err
    said = written(bei, output, tmp_path).said
    assert "computed nothing: its rows were in earlier parts" in said
    assert "No device was used" in said
    assert "rows/s" not in said


def test_a_damaged_part_is_named(bei: Bei, finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    name = parts(output)[1]
    (output / name).write_bytes(b"nothing")
    assert (
        f"1 of the parts could not be read, such as {name}" in written(bei, output, tmp_path).said
    )


def test_of_many_parts_some_are_read_and_the_page_says_so(
    bei: Bei, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.report.sample._PARTS", 2)
    monkeypatch.setattr("jobs.report.sample._SMALL_PARTS", 2)
    monkeypatch.setattr("jobs.report.parts._READ", 2)
    said = written(bei, finished, tmp_path).said
    assert "in 2 of 3 parts" in said
    assert "The stages are those of 2 of 3 parts" in said
    assert "rows by outcome computed 29" in said.lower()  # which the list of parts says


def test_parts_that_weigh_too_much_are_not_read(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.report.sample._BYTES", 1)
    assert gather(*find_run(str(finished)))["sample"]["parts"] == 1


def test_a_page_stays_small_whatever_the_rows_hold(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = gather(*find_run(str(finished)))
    report["vectors"]["map"]["points"] = [
        {"x": at % 40, "y": at // 40, "values": ["<" * 160, "&" * 160]} for at in range(2000)
    ]
    small = make_page(report)
    assert len(small.encode()) <= MAX_BYTES
    assert 0 < Page(small).tags.count("circle") < 2000
    monkeypatch.setattr(pages, "MAX_BYTES", 10**9)
    assert len(make_page(report).encode()) > 1_000_000


def test_an_output_in_a_bucket(bei: Bei, finished: Path, s3: S3Server) -> None:
    import fsspec

    bucket = s3.make_bucket()
    fsspec.filesystem("s3").put(str(finished), f"{bucket}/out", recursive=True)
    page = f"s3://{bucket}/page.html"
    done = bei("report", f"s3://{bucket}/out", page)
    assert done.code == 0, done.err
    with fsspec.open(page, "rt") as file:
        assert "run 1: done" in Page(file.read()).said


@pytest.mark.parametrize(
    ("task", "golden", "columns", "said"),
    [
        (
            "rerank",
            "bge_reranker_xlmr",
            {"query": ["a"] * 4, "documents": [["b", "c"]] * 4},
            "scores: values",
        ),
        ("classify", "go_emotions_roberta", {}, "labels: all by how often"),
    ],
)
def test_scores_and_labels(
    submit: Bei,
    bei: Bei,
    tmp_path: Path,
    task: str,
    golden: str,
    columns: dict[str, Any],
    said: str,
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 4, **columns)
    words = ("--task", task, "--model", GOLDENS / golden, "--output", tmp_path / "out")
    done = submit(corpus, *words)
    assert done.code == 0, done.err
    page = written(bei, tmp_path / "out", tmp_path)
    assert said in page.said
    assert "Results" in page.said


def test_vectors_of_other_types(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 12)
    assert submit(corpus, "--output-dtype", "int8,binary", "--output-format", "parquet").code == 0
    report = bei("report", tmp_path / "c.embed", tmp_path / "r.html", "--json").json["vectors"]
    assert report["column"] == "embedding_int8"
    assert report["norms"]["median"] == pytest.approx(1, abs=0.02)
