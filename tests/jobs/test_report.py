"""`bei-jobs report`: a page that says what became of an output, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import Bei, forget_the_user, typed
from corpora import ROOT, TINY, write_parquet
from pages import Page, looked_at, refuse_what_is_fetched

from jobs.report.gather import gather
from pipeline.output.output import find_run

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = '"></title></svg><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, checkpoint_cache: Path) -> Path:
    """The second run on an output whose every name and value is hostile; not to be touched."""
    folder = tmp_path_factory.mktemp("night")
    inputs = folder / "in"
    hostile = {"id": [f"{SCRIPT}{row}" for row in range(60)], BREAKOUT: [BREAKOUT] * 60}
    text = [f"{SCRIPT} text number {row} {'word ' * row}" for row in range(60)]
    text[7], text[9] = None, text[8]
    write_parquet(inputs / "<b>a&amp;.parquet", 60, text=text, **hostile)
    words = (
        "submit", inputs, "--output", folder / "out", "--model", TINY, "--device", "cpu", "--quiet",
        "--keep", BREAKOUT, "--rows-per-shard", 20, "--max-failed-rows", 1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        forget_the_user(patch, folder / "state", checkpoint_cache)
        assert typed(*words).code == 3
        write_parquet(inputs / "<i>new.parquet", 10, seed=5, **{BREAKOUT: ["x"] * 10})
        done = typed(*words, "--report", folder / "page.html", "--json")
    assert done.code == 3, done.err
    assert done.json["report"] == str(folder / "page.html")
    return folder


@pytest.fixture(scope="module")
def page(night: Path) -> Page:
    """The page that `submit --report` wrote."""
    return Page((night / "page.html").read_text())


def test_the_page_is_whole_in_itself(page: Page) -> None:
    refuse_what_is_fetched(page)
    assert page.text.startswith("<!DOCTYPE html>\n<html lang=")
    assert page.tags.count("h1") == 1
    assert len(page.text.encode()) < 1_000_000


def test_no_name_and_no_value_becomes_markup(page: Page) -> None:
    (script,) = page.scripts
    assert script.strip() == (ROOT / "jobs/pages/templates/page.js").read_text().strip()
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert any(SCRIPT in title and BREAKOUT in title for title in page.titles)  # of the map
    assert SCRIPT in page.said  # of the neighbours
    assert "<b>a&amp;.parquet" in page.said  # of the table of files


def test_the_page_says_what_became_of_the_rows(page: Page) -> None:
    assert "embed with" in page.said
    assert "run 2: done" in page.said
    assert "Chosen for you, and why precision float32" in page.said
    for outcome in ("computed 10", "reused from earlier parts 59", "without a result 1"):
        assert outcome in page.said
    assert "has no text" in page.said or "null" in page.said
    assert "Since run 1: 10 rows added" in page.said
    assert "new 1" in page.said
    assert "69 rows that were read have 68 different texts" in page.said
    assert "No price is known" in page.said


def test_json_has_what_the_page_says(bei: Bei, finished: Path, tmp_path: Path) -> None:
    done = bei("report", finished, tmp_path / "r.html", "--price-per-hour", 3600, "--json")
    report = done.json
    assert report["report"] == str(tmp_path / "r.html")
    assert report["rows"] == bei("status", finished, "--json").json["rows"]
    assert report["by_file"]["first"][0]["rows"] == 30
    assert report["by_file"]["first"][0]["tokens"] == report["tokens"]
    assert report["quarantine"]["reasons"][0]["rows"] == 1
    assert report["quarantine"]["reasons"][0]["row"] == "1"
    assert report["lengths"]["rows"] == 30
    assert sum(report["lengths"]["counts"]) == 30
    assert report["vectors"]["rows"] == 29
    assert len(report["vectors"]["map"]["points"]) == 29
    assert report["vectors"]["map"]["names"] == ["id", "lang"]
    assert report["cost"]["price"] == pytest.approx(report["timeline"]["device_seconds"])
    assert report["timeline"]["stages"]["parts"] == 3
    assert report["choices"]["precision"]["reason"]
    assert report["sample"] == {"parts": 3, "of": 3, "rows": 29, "unread": {}}


def test_neighbours_have_their_texts_from_the_input(finished: Path) -> None:
    rows = gather(*find_run(str(finished)))["vectors"]["neighbours"]["rows"]
    shown = [each for row in rows for each in (row, *row["near"])]
    assert all(row["near"] for row in rows)
    for row in shown:
        number = int(row["id"].rpartition("-")[2])
        assert row["text"] == ("one" if number == 0 else f"text of number {number - 2}")
    assert {"id", "lang"} <= rows[0]["kept"].keys()


def test_the_page_has_the_outputs_name_in_the_current_directory(
    bei: Bei, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bei("report", finished).out.startswith(str(tmp_path / "corpus.embed.html"))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.embed.html"]


@pytest.mark.parametrize(
    ("file", "problem"),
    [("page.parquet", "is not the name of a page"), ("{output}/p.html", "within the output")],
)
def test_a_page_takes_the_place_of_nothing_else(
    bei: Bei, finished: Path, file: str, problem: str
) -> None:
    refused = bei("report", finished, file.format(output=finished))
    assert refused.code == 2
    assert problem in refused.screen[0]


def test_an_output_that_is_none_is_refused(bei: Bei, tmp_path: Path) -> None:
    refused = bei("report", tmp_path, tmp_path / "r.html")
    assert (refused.code, list(tmp_path.iterdir())) == (1, [])
    assert "holds no job" in refused.screen[0]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--report", "x.csv"), "is not the name of a page"),
        (("--report", "x.html", "--broker", "redis://127.0.0.1:1"), "without --wait"),
    ],
)
def test_submit_refuses_a_page_before_it_computes(
    submit: Bei, tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    refused = submit(write_parquet(tmp_path / "c.parquet", 2), *words)
    assert refused.code == 2
    assert problem in refused.screen[0]
    assert not (tmp_path / "c.embed").exists()


def test_a_page_that_cannot_be_written_costs_no_job(submit: Bei, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    page = tmp_path / "file" / "page.html"
    job = {"inputs": ["c.parquet"], "report": str(page)}
    write_parquet(tmp_path / "c.parquet", 2)
    (tmp_path / "job.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in job.items()))
    done = submit("--job-file", tmp_path / "job.toml", "--json")
    assert (done.code, done.json["state"]) == (0, "done")
    assert "--report" in done.json["warnings"][0]


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(page: Page, tmp_path: Path, *, dark: bool) -> None:
    seen = looked_at(page.text, tmp_path, dark=dark)
    assert seen["dark"] is dark
    assert seen["violations"] == []
    assert seen["console"] == []
    assert seen["wider"] <= 0
    assert seen["stops"] == 1  # of the Tab key, however many points
    assert seen["first"].startswith("id: ")
    assert seen["next"].startswith("id: ")
    assert seen["next"] != seen["first"]
