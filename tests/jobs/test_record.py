"""What a night says: what it changed, who ran it, how it ended; and when the last good one was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, Outcome
from corpora import texts, write_parquet
from prepared import prepared_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of ten rows, one shard each."""
    for seed, name in enumerate("abc"):
        write_parquet(tmp_path / f"data/{name}.parquet", 10, seed=seed)
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


@pytest.fixture
def night(submit: Bei, folder: Path) -> Callable[..., Outcome]:
    """The same command every night."""
    return lambda *words: submit(folder, *words, "--json")


def files(told: dict[str, Any]) -> dict[str, int]:
    """The kinds of files that changed, and how many did."""
    return {kind: count for kind, count in told["changes"]["files"].items() if count}


def rows(told: dict[str, Any]) -> tuple[int, int | None, int, int]:
    changed: dict[str, Any] = told["changes"]["rows"]
    return changed["added"], changed["changed"], changed["dropped"], changed["reused"]


def test_four_nights_say_what_changed_newest_first(
    bei: Bei, night: Callable[..., Outcome], folder: Path, output: Path
) -> None:
    assert night().code == 0
    write_parquet(folder / "b.parquet", 12, seed=7)
    write_parquet(folder / "d.parquet", 5, seed=3)
    assert night().code == 0
    (folder / "d.parquet").rename(folder / "e.parquet")
    (folder / "a.parquet").unlink()
    assert night().code == 0
    write_parquet(folder / "c.parquet", 8, seed=2, text=[None] * 8)
    assert night("--max-failed-rows", 0).code == 1

    told = bei("history", output, "--json").json
    runs = told["runs"]

    assert [(run["run"], run["state"]) for run in runs] == [
        (4, "failed"), (3, "done"), (2, "done"), (1, "done"),
    ]  # fmt: skip
    assert [run["changes"]["since"] for run in runs] == [3, 2, 1, None]
    assert [files(run) for run in runs] == [
        {"changed": 1}, {"renamed": 1, "gone": 1}, {"new": 1, "changed": 1}, {"new": 3},
    ]  # fmt: skip
    assert [rows(run)[:3] for run in runs] == [(0, None, 2), (0, 0, 10), (7, 10, 0), (30, 0, 0)]
    assert rows(runs[2])[3] == 20
    assert runs[1]["changes"]["first"] == {
        "new": [], "changed": [], "gone": [f"{folder}/a.parquet"],
        "renamed": [f"{folder}/d.parquet → {folder}/e.parquet"],
    }  # fmt: skip
    for run in runs:
        assert run["by"].count("@") == 1
        assert run["versions"]["bei-jobs"]
        assert run["started"] <= run["finished"]
    assert "rows failed" in runs[0]["reason"]
    assert told["not_planned"] == []
    lines = bei("history", output).out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["4", "failed"], ["3", "done"], ["2", "done"], ["1", "done"]
    ]  # fmt: skip
    assert "1 renamed, 1 gone" in lines[1]
    status = bei("status", output, "--json").json
    assert status == runs[0]
    assert status["last_failure"]["reason"] == runs[0]["reason"]
    assert status["last_failure"]["at"] >= status["finished"] >= status["started"]


def test_a_file_that_was_only_touched_changed_and_names_what_it_cost(
    bei: Bei, night: Callable[..., Outcome], folder: Path, output: Path
) -> None:
    assert night().code == 0
    os.utime(folder / "c.parquet")
    told = night().json
    assert files(told) == {"changed": 1}
    assert rows(told)[0] == rows(told)[2] == 0
    assert rows(told)[1] == told["rows"]["computed"]
    assert "1 changed (c.parquet)" in bei("status", output).out


def test_a_failure_at_planning_is_kept_in_the_output_until_a_good_night_is_newer(
    bei: Bei, night: Callable[..., Outcome], folder: Path, output: Path
) -> None:
    first = night().json
    assert first["last_failure"] is None
    (folder / "a.parquet").unlink()
    (folder / "b.parquet").unlink()
    refused = night()
    assert refused.code == 1

    told = bei("status", output, "--json")

    assert (told.code, told.json["state"], told.json["run"]) == (0, "done", 1)
    failure = told.json["last_failure"]
    assert (failure["reason"], failure["hint"]) == (refused.json["error"], refused.json["hint"])
    assert failure["at"] >= first["finished"]
    (line,) = bei("history", output, "--json").json["not_planned"]
    assert line["reason"] == failure["reason"]
    assert "drop 20 of the 30 rows" in bei("history", output).out
    date_failures(output, "2099")  # times are whole seconds
    (said,) = (one for one in bei("status", output).out.splitlines() if "drop 20" in one)
    assert said.startswith(f"  submit  by {first['by']} at 2099")  # the run itself did not fail
    date_failures(output, "2000")
    assert "drop 20" not in bei("status", output).out, "a newer good run needs no old failure"
    assert bei("status", output, "--json").json["last_failure"]["reason"] == failure["reason"]


def date_failures(output: Path, year: str) -> None:
    """Give all failures another year."""
    for path in (output / "_bei/failed").iterdir():
        failure = json.loads(path.read_text())
        path.write_text(json.dumps({**failure, "at": year + failure["at"][4:]}))


def test_a_failed_submit_leaves_nothing_where_there_is_no_output_yet(
    submit: Bei, tmp_path: Path, output: Path
) -> None:
    assert submit(tmp_path / "data", "--output", output).code == 1
    assert not output.exists()


def test_only_the_last_failures_are_kept(
    bei: Bei, night: Callable[..., Outcome], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.output.failures._KEPT", 2)
    assert night().code == 0
    for dimensions in (8, 9, 10):
        assert night("--dimensions", dimensions).code == 1
    assert len(list((output / "_bei/failed").iterdir())) == 2
    assert "8 here" not in bei("history", output).out


def date_back(output: Path, **age: float) -> None:
    """Let the newest run have finished so long ago."""
    path = output / "_bei/runs/1/manifest.json"
    finished = (datetime.now(UTC) - timedelta(**age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": finished}))


def test_max_age_fails_when_the_last_good_run_is_older(
    bei: Bei, night: Callable[..., Outcome], output: Path
) -> None:
    assert night().code == 0
    assert bei("status", output, "--max-age", "10m").code == 0
    date_back(output, hours=27)
    stale = bei("status", output, "--max-age", "26h")
    assert stale.code == 1
    assert len(stale.err.splitlines()) == 1
    assert "27.0 hours ago: more than --max-age 26h" in stale.err
    for age in ("28h", "1.2d", "1680m", "100800s"):
        assert bei("status", output, "--max-age", age).code == 0, age
    assert bei("status", output).code == 0

    assert night().json["rows"]["computed"] == 0
    fresh = bei("status", output, "--max-age", "1h", "--json")

    assert fresh.code == 0, "a night that found nothing to do is a good one"
    assert fresh.json["checked"] > fresh.json["finished"]


def test_max_age_fails_where_no_run_is_finished_and_where_the_last_one_is_not_good(
    bei: Bei, night: Callable[..., Outcome], tmp_path: Path, folder: Path, output: Path
) -> None:
    prepared_run(tmp_path, folder / "a.parquet")
    never = bei("status", tmp_path / "out", "--max-age", "26h", "--json")
    assert (never.code, never.json["state"]) == (1, "queued")
    assert "has no finished run" in never.err
    assert night().code == 0
    write_parquet(folder / "c.parquet", 10, text=[None] * 10)
    assert night("--max-failed-rows", 0).code == 1
    failed = bei("status", output, "--max-age", "26h")
    assert (failed.code, failed.err) == (1, ""), "it failed, but the last good one is recent"
    date_back(output, hours=27)
    assert "more than --max-age" in bei("status", output, "--max-age", "26h").err


@pytest.mark.parametrize("age", ["26", "h", "-1h", "1w", "1e3h", "", "٣h"])
def test_an_age_that_is_none_is_refused(bei: Bei, age: str) -> None:
    refused = bei("status", "no-such-output", "--max-age", age)
    assert refused.code == 2
    assert "26h" in refused.err


def test_skipped_files_are_named_with_their_reason(
    bei: Bei, night: Callable[..., Outcome], output: Path
) -> None:
    assert night().json["files"] == {"total": 3, "skipped": []}
    path = output / "_bei/runs/1/run.json"
    skipped = [["/in/bad.parquet", "it is truncated"]]
    path.write_text(json.dumps({**json.loads(path.read_text()), "skipped": skipped}))

    told = bei("status", output, "--json").json

    assert told["files"]["skipped"] == [{"uri": "/in/bad.parquet", "reason": "it is truncated"}]
    assert "skipped /in/bad.parquet: it is truncated" in bei("status", output).out
    assert "1 file skipped" in bei("history", output).out


def test_a_run_of_an_earlier_version_has_a_history_without_a_record(
    bei: Bei, night: Callable[..., Outcome], output: Path
) -> None:
    assert night().code == 0
    for name, new in (("run.json", "record"), ("manifest.json", "changed")):
        path = output / "_bei/runs/1" / name
        stored = json.loads(path.read_text())
        del stored[new]
        path.write_text(json.dumps(stored))

    (run,) = bei("history", output, "--json").json["runs"]

    assert (run["state"], run["by"], run["changes"], run["versions"]) == ("done", None, None, {})
    assert bei("status", output).code == bei("history", output).code == 0
    assert night().json["rows"]["reused"] == 30


def test_of_a_changed_file_only_the_rows_that_were_computed_count_as_changed(
    night: Callable[..., Outcome], folder: Path
) -> None:
    assert night().code == 0
    write_parquet(folder / "c.parquet", 10, seed=2, text=["another text", *texts(10, 2)[1:]])
    told = night().json
    assert files(told) == {"changed": 1}
    assert rows(told) == (0, 1, 0, 29)
