"""Submits on an output whose last run has computed nothing yet, or starts while they plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Bei, Outcome, read_output, typed
from corpora import TINY, parts, write_parquet

Planned = Callable[..., Outcome]

# What happens meanwhile is patched in this process.
pytestmark = pytest.mark.usefixtures("device_in_this_process")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "one/rows.parquet", 10, seed=1)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "two/rows.parquet", 10, seed=2)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def planned(output: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Type `bei-jobs submit WORDS… --output OUTPUT` on a machine that then loses its power."""

    def submitted(*words: object) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr("jobs.run_job.run_here", lambda plan, *_, **__: plan() and 0)
            done = typed("submit", *words, "--output", output, "--model", TINY, "--device", "cpu")
        assert done.code == 0, done.err
        return done

    return submitted


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch, planned: Planned) -> Planned:
    """Type another submit while the next one plans, after it has looked at the output."""

    def another(*words: object) -> None:
        from pipeline.planning import draft

        def make_spec(*args: object) -> object:
            monkeypatch.setattr(draft, "make_spec", real)
            planned(*words)
            return real(*args)

        real = draft.make_spec
        monkeypatch.setattr(draft, "make_spec", make_spec)

    return another


def ids(bei: Bei, output: Path) -> set[str]:
    """The files that the rows of an output come from."""
    return {name.partition("-")[0] for name in read_output(bei, output)["id"].to_pylist()}


def inputs_refused(refused: Outcome, earlier: Path) -> None:
    assert refused.code == 1
    assert f"holds the results of other inputs: {earlier}" in refused.screen[0]
    assert "--add" in refused.err
    assert "--replace" in refused.err


def test_a_job_without_a_part_is_not_replaced_by_other_inputs(
    submit: Bei, bei: Bei, planned: Planned, one: Path, two: Path, output: Path
) -> None:
    planned(one)

    inputs_refused(submit(two, "--output", output), one)
    inputs_refused(submit(two, "--output", output, "--limit", 5), one)

    again = submit(one, "--output", output, "--json")
    assert (again.code, again.json["run"]) == (0, 1)
    assert ids(bei, output) == {"1"}


def test_a_job_that_starts_during_planning_is_not_replaced_by_other_inputs(
    submit: Bei, bei: Bei, meanwhile: Planned, one: Path, two: Path, output: Path
) -> None:
    meanwhile(one)

    inputs_refused(submit(two, "--output", output), one)

    assert bei("status", output, "--json").json["run"] == 1
    assert submit(one, "--output", output).code == 0
    assert ids(bei, output) == {"1"}


def test_inputs_replaced_during_planning_stay_replaced(
    submit: Bei, bei: Bei, meanwhile: Planned, one: Path, two: Path, output: Path
) -> None:
    assert submit(one, "--output", output).code == 0
    meanwhile(two, "--replace")
    write_parquet(one.with_name("more.parquet"), 10, seed=3)

    inputs_refused(submit(one, "--output", output), two)

    assert bei("status", output, "--json").json["run"] == 2


def test_inputs_added_during_planning_are_kept(
    submit: Bei, bei: Bei, meanwhile: Planned, one: Path, two: Path, output: Path
) -> None:
    assert submit(one, "--output", output).code == 0
    three = write_parquet(two.with_name("three.parquet"), 10, seed=3)
    meanwhile(two, "--add")

    assert submit(three, "--output", output, "--add").code == 0

    assert ids(bei, output) == {"1", "2", "3"}
    assert bei("verify", output).code == 0


def test_the_same_command_typed_twice_is_one_job(
    submit: Bei, bei: Bei, meanwhile: Planned, one: Path, output: Path
) -> None:
    meanwhile(one)

    done = submit(one, "--output", output, "--json")

    assert (done.code, done.json["run"], done.json["rows"]["done"]) == (0, 1, 10)


def test_the_same_inputs_with_a_changed_file_supersede_a_job_without_a_part(
    submit: Bei, bei: Bei, planned: Planned, one: Path, output: Path
) -> None:
    planned(one.parent)
    write_parquet(one, 12, seed=4)
    write_parquet(one.with_name("more.parquet"), 10, seed=5)

    done = submit(one.parent, "--output", output, "--json")

    assert (done.code, done.json["run"], done.json["rows"]["done"]) == (0, 2, 22)
    assert ids(bei, output) == {"4", "5"}
    assert len(parts(output)) == 2
