"""`bei-jobs verify`: one test for each thing that it must find, done to a sound output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei
from corpora import parts
from forgery import rewrite_part

from pipeline.output.output import Output
from pipeline.output.plan import Plan, make_plan
from pipeline.shards import Cut


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished output, to be harmed."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def problems(bei: Bei, output: Path) -> Callable[[], list[str]]:
    """The problems that `verify` reports, checked in both of its output formats."""

    def found() -> list[str]:
        reported, shown = bei("verify", output, "--json"), bei("verify", output)
        assert set(reported.json) == {"ok", "job", "rows", "parts", "precisions", "problems"}
        listed: list[str] = reported.json["problems"]
        assert reported.json["ok"] is (not listed)
        assert reported.code == shown.code == (1 if listed else 0)
        assert all(problem in shown.out for problem in listed)
        assert listed == [] or f"{len(listed)} problem{'s'[: len(listed) - 1]} in " in shown.out
        assert "Traceback" not in shown.err
        return listed

    return found


def part(output: Path, index: int = 1) -> Path:
    return output / parts(output)[index]


def with_value(table: pa.Table, row: int, value: float) -> pa.Table:
    column = table["embedding"].combine_chunks()
    flat = column.flatten().to_numpy().copy()
    flat[row * column.type.list_size] = value
    changed = pa.FixedSizeListArray.from_arrays(pa.array(flat), column.type.list_size)
    return table.set_column(table.column_names.index("embedding"), "embedding", changed)


def rewrite_plan(output: Path, change: Callable[[list[Cut]], list[Cut]]) -> None:
    store = Output(str(output))
    run = store.latest()
    assert run is not None
    plan = store.plan(run)
    info = json.loads((output / "_bei/spec.json").read_text())
    changed = make_plan(
        [(file, change(plan.cuts()[file.uri])) for file in plan.files],
        space=info["space"],
        schema=info["schema"],
    )
    Path(output / run.path(f"plan-{run.plan}")).write_bytes(changed.to_bytes())
    assert isinstance(store.plan(run), Plan)


def test_a_finished_output_is_sound(
    problems: Callable[[], list[str]], bei: Bei, output: Path
) -> None:
    assert problems() == []
    report = bei("verify", output, "--json").json
    assert (report["rows"], report["parts"], report["precisions"]) == (30, 3, ["float32"])
    assert bei("verify", output).out == "ok: 30 rows in 3 parts, each exactly once\n"


def test_it_finds_a_missing_part(problems: Callable[[], list[str]], output: Path) -> None:
    gone = part(output)
    gone.unlink()
    found = problems()
    assert f"{gone.name} is missing" in found
    assert any("30 rows, but the parts hold 20" in problem for problem in found)


def test_it_finds_a_part_that_nobody_planned(
    problems: Callable[[], list[str]], output: Path
) -> None:
    stray = output / "part-x-00000000-000000000000-0123456789abcdef.arrow"
    shutil.copy(part(output), stray)
    (found,) = problems()
    assert stray.name in found


def test_it_finds_every_single_changed_byte(
    problems: Callable[[], list[str]], output: Path
) -> None:
    path = part(output)
    sound = path.read_bytes()
    for at in (len(sound) // 3, len(sound) // 2, len(sound) - 200):
        harmed = bytearray(sound)
        harmed[at] ^= 1
        path.write_bytes(harmed)
        found = problems()
        assert found, f"byte {at} of {len(sound)}"
        assert all(path.name in problem for problem in found if "manifest says" not in problem)
    path.write_bytes(sound)
    assert problems() == []


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_it_finds_a_truncated_part(
    problems: Callable[[], list[str]], output: Path, keep: float
) -> None:
    path = part(output)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep in (0, 5) else keep * len(data))])
    found = problems()
    assert any(path.name in problem and "cannot be read" in problem for problem in found)


def test_it_finds_a_value_that_is_not_finite(
    problems: Callable[[], list[str]], output: Path
) -> None:
    for value in (np.nan, np.inf):
        rewrite_part(part(output), lambda table, value=value: with_value(table, 3, value))
        assert any("embedding has a value that is not finite" in p for p in problems())


def test_it_finds_bytes_that_other_readers_refuse(
    problems: Callable[[], list[str]], output: Path
) -> None:
    def not_utf8(table: pa.Table) -> pa.Table:
        return table.set_column(0, "id", pa.array([b"\xff"] * len(table)).view(pa.string()))

    rewrite_part(part(output), not_utf8)
    assert any("it is not a valid Arrow file" in p and "UTF8" in p for p in problems())


def test_it_opens_every_part_with_a_second_reader(
    problems: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: object) -> None:
        raise pl.exceptions.ComputeError("out-of-spec")

    monkeypatch.setattr(pl, "read_ipc", refuse)
    assert [p.partition(": ")[2] for p in problems()] == ["polars cannot read it: out-of-spec"] * 3


def test_it_finds_a_part_written_in_another_space(
    problems: Callable[[], list[str]], output: Path
) -> None:
    rewrite_part(part(output), space="0123456789abcdef", sha256="ff" * 32)
    found = problems()
    assert any("its space is '0123456789abcdef'" in problem for problem in found)
    assert any("its sha256 is" in problem for problem in found)


def test_it_finds_a_part_of_another_version_of_the_input(
    problems: Callable[[], list[str]], output: Path
) -> None:
    rewrite_part(part(output), input_version="1-2-3")
    assert any("its input_version is '1-2-3'" in problem for problem in problems())


def test_it_finds_two_parts_that_were_swapped(
    problems: Callable[[], list[str]], output: Path
) -> None:
    one, other = part(output, 1), part(output, 2)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    found = problems()
    for name in (one.name, other.name):
        assert any(name in p and "its shard is" in p for p in found)
        assert any(name in p and "not the part that the manifest lists" in p for p in found)


def test_it_finds_rows_that_were_lost_doubled_or_reordered(
    problems: Callable[[], list[str]], output: Path
) -> None:
    sound = part(output).read_bytes()
    for change in (
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.take(list(reversed(range(table.num_rows)))),
    ):
        rewrite_part(part(output), change)
        assert any(part(output).name in problem for problem in problems())
        part(output).write_bytes(sound)


def test_it_finds_a_result_beside_an_error_and_a_null_without_one(
    problems: Callable[[], list[str]], output: Path
) -> None:
    def nulls(table: pa.Table) -> pa.Table:
        error = pa.array(["why"] + [None] * (table.num_rows - 1))
        return table.set_column(table.column_names.index("error"), "error", error)

    rewrite_part(part(output), nulls, failed=1)
    assert any("embedding is not null exactly where" in problem for problem in problems())


def test_it_finds_columns_that_are_missing_or_of_another_type(
    problems: Callable[[], list[str]], output: Path
) -> None:
    sound = part(output).read_bytes()
    for change, named in (
        (lambda table: table.drop_columns("error"), "error"),
        (lambda table: table.drop_columns("lang"), "lang"),
        (lambda table: table.drop_columns("embedding"), "embedding"),
        (lambda table: table.set_column(1, "lang", pa.array(range(table.num_rows))), "lang"),
    ):
        rewrite_part(part(output), change)
        assert any(part(output).name in p and named in p for p in problems()), named
        part(output).write_bytes(sound)


def test_it_finds_rows_that_were_planned_twice(
    problems: Callable[[], list[str]], output: Path
) -> None:
    rewrite_plan(output, lambda cuts: [cuts[0], replace(cuts[1], first_row=8, rows=12), cuts[2]])
    assert any("rows 8-9 are planned twice" in problem for problem in problems())


def test_it_finds_rows_that_were_never_planned(
    problems: Callable[[], list[str]], output: Path
) -> None:
    rewrite_plan(output, lambda cuts: [cuts[0], cuts[2]])
    assert any("rows 10-19 are missing" in problem for problem in problems())
    rewrite_plan(output, lambda cuts: cuts[:1])
    assert any("10 of 30 rows are planned" in problem for problem in problems())


def test_it_finds_an_output_of_mixed_precisions(
    problems: Callable[[], list[str]], output: Path
) -> None:
    path = output / "_bei/runs/1/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "precisions": ["float16", "float32"]}))
    assert any("different precisions: float16, float32" in problem for problem in problems())


def test_it_finds_a_list_of_parts_that_is_not_the_plan(
    problems: Callable[[], list[str]], output: Path
) -> None:
    path = output / "_bei/runs/1/parts"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    assert any("not in the manifest's part list" in problem for problem in problems())


@pytest.mark.parametrize("name", ["manifest.json", "parts", "run.json"])
def test_a_damaged_record_of_a_run_is_an_error_that_names_it(
    bei: Bei, output: Path, name: str
) -> None:
    (output / "_bei/runs/1" / name).write_bytes(b"{ damaged")
    failed = bei("verify", output)
    assert failed.code == 1
    assert len(failed.screen) <= 6
    assert f"_bei/runs/1/{name}" in failed.err


def test_a_damaged_plan_is_an_error_that_names_it(bei: Bei, output: Path) -> None:
    (plan,) = output.glob("_bei/runs/1/plan-*")
    plan.write_bytes(b"{ damaged")
    failed = bei("verify", output)
    assert failed.code == 1
    assert len(failed.screen) <= 6
    assert plan.name in failed.err


def test_a_problem_comes_with_a_next_step(bei: Bei, output: Path) -> None:
    part(output).write_bytes(b"damaged")
    outcome = bei("verify", output)
    assert "submit" in outcome.out + outcome.err
    assert part(output).name in outcome.out


def test_an_output_without_a_finished_job_is_an_error(bei: Bei, tmp_path: Path) -> None:
    failed = bei("verify", tmp_path / "nothing")
    assert failed.code == 1
    assert "holds no finished job" in failed.err
    assert f"bei-jobs status {tmp_path / 'nothing'}" in failed.err
    assert len(failed.screen) <= 6
