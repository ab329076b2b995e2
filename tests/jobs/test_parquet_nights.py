"""Nights, repairs and accidents of outputs whose parts are Parquet, as of those of Arrow."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output, spawn
from corpora import TINY, parts, texts, write_parquet
from fixtures_s3 import S3Server
from fleet import until

from pipeline import known_rows
from pipeline.output.part_file import checksum_holds, parse_info, read_rows

Submit = Callable[..., Outcome]
WORDS = ("--rows-per-shard", 10, "--max-failed-rows", 1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards of ten rows, one row of which has no text."""
    text = ["one", None, *texts(28)]
    return write_parquet(tmp_path / "data/corpus.parquet", 30, text=text, lang=["en", "de"] * 15)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


@pytest.fixture
def night(submit: Bei, corpus: Path) -> Submit:
    """One more run over the corpus into Parquet parts."""
    return lambda *words: submit(
        corpus.parent, *WORDS, "--output-format", "parquet", "--json", *words
    )


def counts(done: Outcome) -> tuple[int, int, int]:
    """Rows that were computed, reused and failed."""
    assert done.code in (0, 3), done.err
    rows = done.json["rows"]
    return rows["computed"], rows["reused"], rows["failed"]


def paths(output: Path) -> list[str]:
    """The parts, which are all Parquet."""
    assert all(name.startswith("part-") and name.endswith(".parquet") for name in parts(output))
    return [str(output / name) for name in parts(output)]


def test_nights_copy_and_resume_and_widen(
    night: Submit, bei: Bei, corpus: Path, output: Path
) -> None:
    assert counts(night()) == (29, 0, 1)
    vectors = vectors_of(bei, output)
    os.unlink(paths(output)[1])
    assert counts(night()) == (10, 19, 1)
    corpus.rename(corpus.with_name("renamed.parquet"))
    assert counts(night("--keep", "lang")) == (0, 29, 1)
    assert vectors_of(bei, output) == vectors
    assert bei("verify", output).code == 0
    write_parquet(corpus.with_name("more.parquet"), 5, seed=1, lang=["en"] * 5)
    assert counts(night("--keep", "lang")) == (5, 29, 1)


def vectors_of(bei: Bei, output: Path) -> dict[str, Any]:
    table = read_output(bei, output).select(["id", "embedding"])
    return {row["id"]: row["embedding"] for row in table.to_pylist()}


def test_an_object_store_holds_parquet_parts_and_rows_are_copied_from_them(
    night: Submit, bei: Bei, corpus: Path, s3: S3Server
) -> None:
    target = f"s3://{s3.make_bucket()}/out"
    assert counts(night("--output", target)) == (29, 0, 1)
    corpus.rename(corpus.with_name("renamed.parquet"))
    assert counts(night("--output", target)) == (0, 29, 1)
    assert bei("verify", target).code == 0
    listed = bei("files", target).out.split()
    assert len(pl.read_parquet(listed)) == 30


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.usefixtures("device_in_this_process")
def test_parts_that_cannot_be_mapped_are_not_all_held(
    submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    read = list[object]()

    def counted(run: Any, source: Any, *rest: Any) -> Any:
        read.append(source)
        return real(run, source, *rest)

    real = known_rows.read_results
    monkeypatch.setattr(known_rows, "read_results", counted)
    monkeypatch.setattr(known_rows, "_PARTS_BYTES", 1)
    words = (corpus.parent, *WORDS, "--output-format", kind, "--json")
    assert counts(submit(*words)) == (29, 0, 1)
    table = pq.read_table(corpus)
    order = np.random.default_rng(0).permutation(30)
    pq.write_table(table.take(order), corpus.with_name("shuffled.parquet"))
    corpus.unlink()
    assert counts(submit(*words)) == (0, 29, 1)
    assert len(set(read)) == 3
    assert (len(read) > 3) is (kind == "parquet")


def test_rows_are_taken_from_an_output_of_the_other_format(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    words = (corpus, *WORDS, "--json", "--output")
    assert counts(submit(*words, first))[0] == 29
    for output, source, kind in ((second, first, "parquet"), (third, second, "arrow")):
        other = (*words, output, "--output-format", kind, "--reuse-from", source)
        planned = bei("plan", *other, "--model", TINY, "--device", "cpu")
        assert planned.json["rows"]["computed"] == 0
        assert counts(submit(*other)) == (0, 29, 1)
        assert bei("verify", output).code == 0
        assert read_output(bei, output) == read_output(bei, first)
    assert [path.suffix for path in third.glob("part-*")] == [".arrow"] * 3


def test_a_repair_takes_the_good_rows_of_the_part(
    night: Submit, bei: Bei, monkeypatch: pytest.MonkeyPatch, corpus: Path, output: Path
) -> None:
    assert counts(night("--keep", "lang")) == (29, 0, 1)
    before = parts(output)
    (quarantine,) = (output / "_bei/quarantine").iterdir()
    assert quarantine.name == before[0]
    assert pl.read_parquet(quarantine)["bei_error"].to_list() == ["the text is null"]
    retried = bei("retry", output, "--json")
    assert counts(retried) == (0, 29, 1)
    (repaired,) = set(parts(output)) - set(before)
    values = parse_info(repaired, (output / repaired).read_bytes()).values
    assert values["resumed"] == "9", "rows that were not quarantined are not computed again"
    assert bei("verify", output).code == 0


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_what_a_user_makes_of_the_parts_beside_them_is_left_alone(
    submit: Bei, bei: Bei, corpus: Path, output: Path, kind: str
) -> None:
    words = (corpus.parent, *WORDS, "--output-format", kind, "--json")
    assert counts(submit(*words)) == (29, 0, 1)
    other = {"arrow": ".parquet", "parquet": ".arrow"}[kind]
    made = [output / Path(name).with_suffix(other) for name in parts(output)]
    for path in made:
        path.write_bytes(b"what the user made")
    write_parquet(corpus, 30, seed=1, lang=["en"] * 30)
    assert counts(submit(*words, "--prune")) == (30, 0, 0)
    assert {path.read_bytes() for path in made} == {b"what the user made"}
    assert bei("verify", output).code == 0


def test_a_killed_run_leaves_whole_parts_and_goes_on(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    path, output = write_parquet(tmp_path / "c.parquet", 1000), tmp_path / "c.embed"
    words = (path, "--rows-per-shard", 10, "--token-budget", 200, "--output-format", "parquet")
    running = spawn("submit", *words, "--model", TINY, "--device", "cpu")
    until(lambda: paths(output), "a first part")
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = parts(output)
    assert 0 < len(there) < 100, "it was not killed in the middle"
    for name in there:
        data = (output / name).read_bytes()
        info = parse_info(name, data)
        assert checksum_holds(data, info)
        assert len(read_rows(name, data)) == info.count("rows") == 10
    done = submit(*words, "--json")
    computed, reused, failed = counts(done)
    assert reused >= 10 * len(there)
    assert (computed + reused, failed) == (1000, 0)
    assert bei("verify", output).code == 0
    assert [row[0] for row in duckdb.sql(f"SELECT id FROM '{output}/*.parquet'").fetchall()] == [
        f"0-{row}" for row in range(1000)
    ]


def test_an_output_keeps_its_format(
    night: Submit, submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    assert counts(night()) == (29, 0, 1)
    before = parts(output)
    for name in ("submit", "plan"):
        words = (corpus.parent, *WORDS, "--model", TINY, "--device", "cpu")
        other = bei(name, *words, "--output-format", "arrow")
        assert other.code == 1
        assert f"{output} was begun with --output-format parquet, and keeps it" in other.err
        assert "give --output-format parquet, or another --output for arrow" in other.err
    same = submit(corpus.parent, *WORDS, "--json")
    assert same.json["choices"]["output-format"]["value"] == "parquet"
    assert (same.json["run"], parts(output)) == (1, before)
    write_parquet(corpus.with_name("more.parquet"), 5, seed=1, lang=["en"] * 5)
    assert counts(submit(corpus.parent, *WORDS, "--json")) == (5, 29, 1)
    assert len(paths(output)) == 4


def test_an_arrow_output_says_nothing_of_formats_and_refuses_another(
    submit: Bei, corpus: Path, output: Path
) -> None:
    words = (corpus.parent, *WORDS, "--output-format")
    assert submit(*words, "arrow").code == 3
    assert "output_format" not in (output / "_bei/spec.json").read_text()
    assert "output_format" not in (output / "_bei/runs/1/run.json").read_text()
    other = submit(*words, "parquet")
    assert (other.code, list(output.glob("*.parquet"))) == (1, [])
    assert f"{output} was begun with --output-format arrow, and keeps it" in other.err
