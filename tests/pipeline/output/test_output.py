"""What an output remembers: whose it is, its runs, its failures; and who wins a race."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import NotFound, OutputConflict, StorageError, UsageError
from pipeline.output.manifest import (
    finalise,
    newest_finished,
    read_manifest,
    read_parts,
    retract_if_unwanted,
    sweep,
)
from pipeline.output.output import MAX_ATTEMPTS, Output, find_run, quarantine_name
from pipeline.output.part_file import encode_part
from pipeline.output.plan import Plan, make_plan
from pipeline.output.run import Run
from pipeline.output.status import job_status
from pipeline.shards import Cut, InputFile, ShardResult
from pipeline.spec import JobSpec, ModelIdentity

COLUMNS = pa.schema([("id", pa.string()), ("text", pa.large_string())])
SPEC = JobSpec(task="embed", model=ModelIdentity("m", "", "aa", "bb"), id_column="id")


def plan_of(*names: str, version: str = "1") -> Plan:
    """One file a name, of two shards of ten rows."""
    files = [InputFile(f"/in/{n}", n, version, 1, 20, "parquet") for n in names]
    return make_plan([(f, [Cut(0, 10), Cut(10, 10)]) for f in files], space="s", schema="k")


def run_of(output: Output, plan: Plan, n: int = 1, spec: JobSpec = SPEC) -> Run:
    return Run(
        output=output.uri, n=n, spec=spec, inputs=("/in",), columns=COLUMNS, plan=plan.digest,
        files=len(plan.files), shards=len(plan), rows=plan.rows,
    )  # fmt: skip


def started(output: Output, plan: Plan, n: int = 1) -> Run:
    run = output.start(run_of(output, plan, n), plan)
    assert run is not None
    return run


def commit(output: Output, run: Run, plan: Plan, *indexes: int, failed: int = 0) -> None:
    for index in indexes or range(len(plan)):
        shard = plan.shard(index)
        table = pa.table({"id": ["x"] * shard.rows})
        values = {
            "rows": shard.rows, "tokens": 30, "truncated": 1, "failed": failed, "seconds": 0.5,
            "attempt": f"{run.n}-{index}", "job": run.job, "precision": "float32", "device": "cpu",
        }  # fmt: skip
        output.commit(shard.part, encode_part(table, values))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def failure(shard: str = "s1", *, transient: bool = True) -> ShardResult:
    return ShardResult(shard, "part", 10, error="why", transient=transient)


def test_a_run_comes_back_as_it_was_written(store_uri: str) -> None:
    output, plan = Output(store_uri), plan_of("a", "b")
    run = started(output, plan)
    assert output.run(1) == run
    assert output.latest() == run
    assert output.plan(run).digest == plan.digest
    assert output.plan(run).files == plan.files
    assert find_run(store_uri)[1] == run


def test_of_many_that_start_a_run_one_wins(output: Output) -> None:
    plans = [plan_of("a", version=str(n)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda plan: output.start(run_of(output, plan), plan), plans))
    (winner,) = [run for run in won if run is not None]
    assert output.latest() == winner
    assert output.plan(winner).digest == winner.plan


def test_job_ids_differ_by_output_and_by_run(output: Output, tmp_path: Path) -> None:
    plan = plan_of("a")
    other = Output(str(tmp_path / "other"))
    runs = [run_of(output, plan), run_of(output, plan, 2), run_of(other, plan)]
    assert len({run.job for run in runs}) == 3
    assert all(len(run.job) == 12 for run in runs)


def test_an_output_is_claimed_once_and_again_by_the_same_space(store_uri: str) -> None:
    output = Output(store_uri)
    output.claim(SPEC, COLUMNS)
    output.claim(SPEC, COLUMNS)
    output.claim(replace(SPEC, token_budget=7, max_failed_rows="50%"), COLUMNS)
    with pytest.raises(OutputConflict, match="--prompt '' there, 'query: ' here"):
        output.claim(replace(SPEC, prompt="query: "), COLUMNS)
    output.claim(replace(SPEC, keep=("text",)), COLUMNS)  # parts are written anew, by row key


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (("m", "", "cc", "bb"), r"made with m, whose weights have changed since (aa then, cc now)"),
        (("m", "", "aa", "cc"), "made with m, whose tokenizer or configuration has changed since"),
        (
            ("org/b", "c3" * 20, "cc", "bb"),
            "made with m; you ask for org/b at revision c3c3c3c3c3c3",
        ),
    ],
)
def test_another_model_is_refused_in_words(
    output: Output, model: tuple[str, str, str, str], words: str
) -> None:
    output.claim(SPEC, COLUMNS)
    # What follows from another model, such as its limit, is not told beside it.
    other = replace(SPEC, model=ModelIdentity(*model), max_length=7, normalize=True)
    with pytest.raises(OutputConflict, match=re.escape(words)) as refused:
        output.claim(other, COLUMNS)
    assert "max-length" not in str(refused.value)
    assert not re.search("[0-9a-f]{13}", str(refused.value))


def test_a_model_moved_to_another_directory_is_the_same_space(output: Output) -> None:
    output.claim(SPEC, COLUMNS)
    output.claim(replace(SPEC, model=ModelIdentity("/elsewhere/m", "", "aa", "bb")), COLUMNS)


def test_a_shard_fails_for_good_after_its_attempts_or_at_once_where_trying_is_vain(
    output: Output,
) -> None:
    run = started(output, plan_of("a"))
    for attempt in range(MAX_ATTEMPTS):
        assert output.failures(run) == {}
        output.record_failure(run, failure(), f"{attempt}")
    assert output.failures(run) == {"s1": failure()}
    output.record_failure(run, failure("s2", transient=False), "0")
    assert output.failures(run).keys() == {"s1", "s2"}
    output.fail(run, "because")
    output.cancel(run)
    assert output.forget_failures(run) == MAX_ATTEMPTS + 1
    assert output.failures(run) == {}
    assert output.failed(run) is None
    assert not output.cancelled(run)


def test_of_a_shards_failures_the_newest_is_told_whatever_the_name_of_its_attempt(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(output, plan_of("a"))
    for hour, attempt in enumerate("cab"):
        moment = f"2026-01-01T0{hour}:00:00Z"
        monkeypatch.setattr("pipeline.output.output.now", lambda moment=moment: moment)
        output.record_failure(run, replace(failure(), error=moment), attempt)
    assert output.failures(run)["s1"].error == "2026-01-01T02:00:00Z"


def test_a_part_that_only_an_older_run_planned_is_taken_back_with_its_quarantine(
    output: Output,
) -> None:
    old, new = plan_of("a", "b"), plan_of("b")
    run = started(output, old)
    commit(output, run, old)
    gone, kept = old.shard(0).part, old.shard(2).part
    for part in (gone, kept):
        output.directory.put(quarantine_name(part), b"bad rows")
        retract_if_unwanted(output, run, part)
        assert part in output.committed()
    started(output, new, 2)
    assert output.superseded(run) == 2
    retract_if_unwanted(output, run, gone)
    retract_if_unwanted(output, run, kept)
    assert gone not in output.committed()
    assert kept in output.committed()
    assert [item.name for item in output.directory.list("_bei/quarantine/")] == [
        quarantine_name(kept)
    ]
    sweep(output)
    assert output.committed().keys() == new.parts


def test_a_late_part_that_the_newest_manifest_lists_is_not_taken_back(output: Output) -> None:
    old, new = plan_of("a", "b"), plan_of("b")
    run = started(output, old)
    commit(output, run, old)
    assert finalise(output, run, old, max_failed="0") is not None
    started(output, new, 2)
    retract_if_unwanted(output, run, old.shard(0).part)
    sweep(output)
    assert output.committed().keys() == old.parts


def test_only_parts_count_as_committed(output: Output) -> None:
    part = plan_of("a").shard(0).part
    for name in (part, "part-x.arrow", "other.arrow", "part-y.parquet", f"_bei/{part}"):
        output.directory.put(name, b"x")
    assert output.committed().keys() == {part}


def test_records_of_other_versions_and_damaged_ones_are_refused(output: Output) -> None:
    started(output, plan_of("a"))
    sound = json.loads(output.directory.read("_bei/runs/1/run.json"))
    for change, kind in (
        ({"format": 99}, OutputConflict),
        ({"spec": {**sound["spec"], "invented": 1}}, UsageError),
        ({"columns": "AAAA"}, StorageError),
        ({"spec": {}}, StorageError),
    ):
        output.directory.put("_bei/runs/1/run.json", json.dumps({**sound, **change}).encode())
        with pytest.raises(kind):
            output.run(1)


def test_an_output_without_a_run_is_not_found(output: Output) -> None:
    assert output.latest() is None
    with pytest.raises(NotFound, match="holds no job"):
        find_run(output.uri)


def test_the_manifest_is_written_when_the_last_shard_is_there(store_uri: str) -> None:
    output, plan = Output(store_uri), plan_of("a", "b")
    run = started(output, plan)
    assert job_status(output, run).state == "queued"
    commit(output, run, plan, 1, 2, 3)
    assert finalise(output, run, plan, max_failed="1%") is None
    assert newest_finished(output) is None
    state = job_status(output, run)
    assert (state.state, state.rows_done, state.shards_done) == ("running", 30, 3)
    commit(output, run, plan, 0)
    manifest = finalise(output, run, plan, max_failed="1%")
    assert manifest is not None
    assert (manifest.rows, manifest.parts, manifest.computed) == (40, 4, 40)
    assert (manifest.tokens, manifest.truncated, manifest.seconds) == (120, 4, 2.0)
    assert newest_finished(output) == (run, manifest)
    assert read_parts(output, run)["part"].to_pylist() == sorted(plan.parts)
    assert job_status(output, run).state == "done"


def test_of_many_that_finalise_all_get_the_first_manifest(output: Output) -> None:
    plan = plan_of("a")
    run = started(output, plan)
    commit(output, run, plan)
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda _: finalise(output, run, plan, max_failed="1%"), range(8)))
    assert set(manifests) == {read_manifest(output, run)}


def test_a_run_that_a_higher_one_replaced_is_never_finalised(output: Output) -> None:
    plan = plan_of("a")
    run = started(output, plan)
    commit(output, run, plan)
    started(output, plan_of("b"), 2)
    assert finalise(output, run, plan, max_failed="1%") is None
    state = job_status(output, run)
    assert (state.state, state.reason) == ("cancelled", "run 2 of this output superseded it")
    assert output.committed().keys() == plan.parts


def test_a_plan_of_a_run_that_was_deleted_finishes_no_other_with_its_number(
    output: Output,
) -> None:
    earlier, plan = plan_of("a"), plan_of("a", "b")
    run = run_of(output, earlier)  # whoever finishes it has it from before
    now = started(output, plan)
    commit(output, now, plan, 0, 1, failed=1)
    for limit in ("50%", "0"):
        assert finalise(output, run, earlier, max_failed=limit) is None
    assert read_manifest(output, now) is None
    assert output.failed(now) is None


def test_finishing_a_night_reads_only_what_is_new(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = plan_of("a", "b"), plan_of("a", "b", "c")
    run = started(output, first)
    commit(output, run, first)
    finalise(output, run, first, max_failed="1%")
    run = started(output, second, 2)
    commit(output, run, second, 4, 5)
    opened: list[str] = []
    open_part = type(output.directory).open

    def counted(self: object, name: str) -> object:
        opened.append(name)
        return open_part(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(type(output.directory), "open", counted)
    manifest = finalise(output, run, second, max_failed="1%")
    assert manifest is not None
    assert (manifest.rows, manifest.computed, manifest.reused) == (60, 20, 40)
    assert sorted(opened) == [second.shard(4).part, second.shard(5).part]


def test_finalising_sweeps_what_the_manifest_does_not_list(output: Output) -> None:
    first, second = plan_of("a", "b"), plan_of("b")
    run = started(output, first)
    commit(output, run, first)
    finalise(output, run, first, max_failed="1%")
    run = started(output, second, 2)
    assert output.committed().keys() == first.parts
    finalise(output, run, second, max_failed="1%")
    assert output.committed().keys() == second.parts


@pytest.mark.parametrize(
    ("limit", "fine"), [("5%", False), ("10%", True), ("3", False), ("4", True)]
)
def test_a_job_with_more_failed_rows_than_its_budget_fails(
    output: Output, limit: str, fine: bool
) -> None:
    from pipeline.errors import JobFailed

    plan = plan_of("a", "b")
    run = started(output, plan)
    commit(output, run, plan, failed=1)  # four of forty
    if fine:
        manifest = finalise(output, run, plan, max_failed=limit)
        assert manifest is not None
        assert manifest.failed == 4
        return
    with pytest.raises(JobFailed, match="4 of 40 rows failed"):
        finalise(output, run, plan, max_failed=limit)
    assert newest_finished(output) is None
    state = job_status(output, run)
    assert state.state == "failed"
    assert "4 of 40 rows failed" in state.reason
    assert "--max-failed-rows" in state.hint
