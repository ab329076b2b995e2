"""`submit --where`: only the selected rows are computed, and everything else is as it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import ROOT, TINY, parts, write_parquet

from pipeline.output.output import find_run
from pipeline.output.repaired import good_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of twenty rows, every third of them English."""
    for seed, name in enumerate("abc"):
        lang = ["en" if row % 3 == 0 else "de" for row in range(20)]
        write_parquet(tmp_path / f"data/{name}.parquet", seed=seed, row_group=5, lang=lang)
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


ENGLISH = ("--where", "lang = 'en'", "--rows-per-shard", 5)


def ids(bei: Bei, output: Path) -> list[str]:
    return read_output(bei, output)["id"].to_pylist()


def expected(*seeds: int) -> list[str]:
    return [f"{seed}-{row}" for seed in seeds for row in range(0, 20, 3)]


def test_only_selected_rows_are_computed(submit: Bei, bei: Bei, folder: Path, output: Path) -> None:
    write_parquet(folder / "none.parquet", lang=["de"] * 20)
    done = submit(folder, *ENGLISH, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["total"] == 21
    assert ids(bei, output) == expected(0, 1, 2)
    assert read_output(bei, output).column_names[0] == "id"
    assert "lang" not in read_output(bei, output).column_names
    assert bei("verify", output).code == 0
    again = submit(folder, "--where", "lang='en'", "--json")
    assert (again.json["run"], again.json["rows"]["computed"]) == (1, 0)


def test_vectors_are_those_of_a_job_without_it(
    submit: Bei, bei: Bei, folder: Path, output: Path, tmp_path: Path
) -> None:
    assert submit(folder, *ENGLISH).code == 0
    assert submit(folder, "--output", tmp_path / "all").code == 0
    every = read_output(bei, tmp_path / "all").to_pylist()
    by_id = {row["id"]: row["embedding"] for row in every}
    for row in read_output(bei, output).to_pylist():
        assert row["embedding"] == pytest.approx(by_id[row["id"]], abs=1e-5)


def test_a_changed_file_alone_is_counted_and_computed_again(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder, *ENGLISH).code == 0
    before = set(parts(output))
    write_parquet(folder / "b.parquet", 20, seed=7, lang=["de", "en"] * 10)
    done = submit(folder, *ENGLISH, "--json")
    assert (done.code, done.json["rows"]["computed"]) == (0, 10)
    assert len(before & set(parts(output))) == 4
    assert bei("verify", output).code == 0


def test_another_expression_computes_its_rows_and_drops_the_others(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder, *ENGLISH).code == 0
    assert submit(folder, "--where", "lang = 'de'").code == 0
    assert not set(ids(bei, output)) & set(expected(0, 1, 2))
    assert bei("verify", output).code == 0
    refused = submit(folder, "--where", "id = '0-0'")
    assert refused.code == 1
    assert "would drop" in refused.err
    assert submit(folder, "--where", "id = '0-0'", "--prune").code == 0
    assert ids(bei, output) == ["0-0"]
    assert submit(folder).code == 0
    assert len(ids(bei, output)) == 60
    assert bei("verify", output).code == 0
    assert submit(folder, *ENGLISH, "--limit", 9, "--prune").code == 0
    assert ids(bei, output) == [*expected(0), *expected(1)[:2]]


def test_a_limit_counts_selected_rows_and_a_run_without_it_takes_the_rest(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder, *ENGLISH, "--limit", 13).code == 0
    assert ids(bei, output) == [*expected(0), *expected(1)[:6]]
    assert bei("verify", output).code == 0
    assert submit(folder, *ENGLISH).code == 0
    assert ids(bei, output) == expected(0, 1, 2)
    assert bei("verify", output).code == 0


def reused_by_a_repair(folder: Path, part: str) -> list[int]:
    """Which rows of a shard with quarantined ones are not computed again."""
    output, run = find_run(str(folder))
    (shard,) = (shard for shard in output.plan(run).shards() if shard.part == f"{part}.arrow")
    piece = good_rows(output, run, replace(shard, cut=replace(shard.cut, repair=1)))
    assert piece is not None
    return piece.rows.tolist()


def test_failed_rows_have_their_numbers_in_the_file_and_can_be_retried(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    text = [None if row in (4, 9) else f"text {row}" for row in range(20)]
    write_parquet(folder / "b.parquet", 20, seed=1, text=text, lang=["de"] * 4 + ["en"] * 16)
    words = (folder, "--where", "lang = 'en'", "--max-failed-rows", 2)
    assert submit(*words).code == 3
    (file,) = (output / "_bei/quarantine").iterdir()
    assert pq.read_table(file)["bei_row"].to_pylist() == [4, 9]
    assert pq.read_table(file)["lang"].to_pylist() == ["en", "en"]  # ready to be submitted again
    reused = reused_by_a_repair(output, file.stem)
    assert reused == [row for row in range(16) if row not in (0, 5)]
    retried = bei("retry", output, "--json")
    assert retried.code == 3, retried.err
    assert retried.json["rows"]["failed"] == 2
    assert retried.json["rows"]["total"] == 30
    (file,) = (output / "_bei/quarantine").iterdir()
    assert pq.read_table(file)["bei_row"].to_pylist() == [4, 9]
    assert bei("verify", output).code == 0


def test_nothing_selected_is_no_job(submit: Bei, folder: Path, output: Path) -> None:
    refused = submit(folder, "--where", "lang = 'fr'")
    assert refused.code == 1
    assert "no rows in" in refused.err
    assert "--where" in refused.err
    assert not output.exists()


def test_a_bad_file_keeps_the_rows_of_the_same_expression_only(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder, *ENGLISH).code == 0
    (folder / "b.parquet").write_bytes(b"")
    assert submit(folder, *ENGLISH).code == 3
    assert ids(bei, output) == expected(0, 1, 2)
    assert bei("verify", output).code == 0
    assert submit(folder, "--where", "lang = 'de'").code == 3
    assert {row.partition("-")[0] for row in ids(bei, output)} == {"0", "2"}
    assert bei("verify", output).code == 0


@pytest.mark.parametrize(
    ("where", "code", "named"),
    [
        ("lang =", 2, "--where"),
        ("count(*) > 1", 2, "count()"),
        ("lang", 2, "neither true nor false"),
        ("country = 'de'", 1, "'country'"),
    ],
)
def test_an_expression_that_makes_no_sense_is_refused(
    submit: Bei, folder: Path, output: Path, where: str, code: int, named: str
) -> None:
    refused = submit(folder, "--where", where)
    assert refused.code == code, refused.err
    assert named in refused.err
    assert "--where" in refused.err
    assert len(refused.screen) <= 6
    assert not output.exists()


def test_polars_is_imported_only_where_it_is_used(folder: Path, output: Path) -> None:
    commands = [
        ("submit", "--help"), ("submit", str(folder), "--model", TINY, "--device", "cpu"),
        ("status", str(output)), ("files", str(output)),
    ]  # fmt: skip
    code = f"""
import sys
sys.modules["polars"] = None
from jobs.cli import main
for words in {commands!r}:
    try:
        main(words)
    except SystemExit as ended:
        assert not ended.code, words
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
