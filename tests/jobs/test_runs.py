"""Runs on one output: repeated, resumed, after inputs changed, and two at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output, spawn
from corpora import TINY, parts, texts, write_parquet

from pipeline.output.output import Output

LOCAL = ("--model", TINY, "--device", "cpu", "--quiet", "--json")


def ids(bei: Bei, output: Path) -> list[str]:
    return read_output(bei, output)["id"].to_pylist()


def expected_ids(rows: int, *seeds: int) -> list[str]:
    return [f"{seed}-{row}" for seed in seeds for row in range(rows)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of ten rows, one shard each."""
    for seed, name in enumerate("abc"):
        write_parquet(tmp_path / f"data/{name}.parquet", 10, seed=seed)
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


def rows_of(done: Outcome) -> tuple[int, int, int]:
    """(total, computed, reused) of a `submit --json`."""
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert rows["done"] == rows["total"]
    return rows["total"], rows["computed"], rows["reused"]


def test_a_finished_job_run_again_computes_nothing_and_says_so(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    first = submit(folder, "--json")
    assert rows_of(first) == (30, 30, 0)
    before = {name: (output / name).stat() for name in parts(output)}
    again = submit(folder, "--json")
    assert rows_of(again) == (30, 0, 30)
    assert again.json["job"] == first.json["job"]
    assert "nothing to do" in bei("submit", folder, "--model", TINY, "--device", "cpu").err
    assert {name: (output / name).stat() for name in parts(output)} == before


def test_a_finished_job_run_again_needs_no_model_in_memory(
    submit: Bei, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(folder).code == 0
    monkeypatch.setattr("workers.engine_cache.EngineCache.get", None)
    assert submit(folder).code == 0


def test_an_added_file_computes_only_its_own_shards(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    write_parquet(folder / "aa.parquet", 10, seed=7)
    assert rows_of(submit(folder, "--json")) == (40, 10, 30)
    assert ids(bei, output) == expected_ids(10, 0, 7, 1, 2)
    assert bei("verify", output).code == 0


def test_a_changed_file_is_computed_again_and_its_old_parts_are_deleted(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    before = set(parts(output))
    write_parquet(folder / "b.parquet", 12, seed=8)
    assert rows_of(submit(folder, "--json")) == (32, 12, 20)
    after = set(parts(output))
    assert len(before & after) == 2
    assert ids(bei, output) == [*expected_ids(10, 0), *expected_ids(12, 8), *expected_ids(10, 2)]
    assert bei("verify", output).code == 0


def test_a_removed_file_is_dropped(submit: Bei, bei: Bei, folder: Path, output: Path) -> None:
    assert submit(folder).code == 0
    (folder / "a.parquet").unlink()
    assert rows_of(submit(folder, "--json")) == (20, 0, 20)
    assert ids(bei, output) == expected_ids(10, 1, 2)
    assert len(parts(output)) == 2
    assert bei("verify", output).code == 0


def test_a_file_touched_but_not_changed_is_a_new_version(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    before = parts(output)
    os.utime(folder / "c.parquet")
    assert rows_of(submit(folder, "--json")) == (30, 0, 30)
    assert len(set(parts(output)) - set(before)) == 1
    assert bei("verify", output).code == 0


def test_a_run_that_would_drop_more_than_half_is_refused_unless_pruned(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    (folder / "a.parquet").unlink()
    (folder / "b.parquet").unlink()
    refused = submit(folder)
    assert refused.code == 1
    assert "drop 20 of the 30 rows" in refused.err
    assert "--prune" in refused.err
    assert ids(bei, output) == expected_ids(10, 0, 1, 2)
    assert rows_of(submit(folder, "--prune", "--json")) == (10, 0, 10)
    assert ids(bei, output) == expected_ids(10, 2)
    assert bei("verify", output).code == 0


def test_other_inputs_on_the_same_output_are_refused_unless_added_or_replaced(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    one, two, three = (
        write_parquet(tmp_path / f"{name}.parquet", 10, seed=seed)
        for seed, name in enumerate(["one", "two", "three"])
    )
    out = tmp_path / "out"
    assert submit(one, "--output", out).code == 0
    refused = submit(two, "--output", out)
    assert refused.code == 1
    assert "one.parquet" in refused.err
    assert "--add" in refused.err
    assert "--replace" in refused.err
    assert ids(bei, out) == expected_ids(10, 0)
    assert rows_of(submit(two, "--output", out, "--add", "--json")) == (20, 10, 10)
    assert ids(bei, out) == expected_ids(10, 0, 1)
    assert rows_of(submit(one, two, "--output", out, "--json")) == (20, 0, 20)
    assert rows_of(submit(three, two, "--output", out, "--replace", "--json")) == (20, 10, 10)
    assert ids(bei, out) == expected_ids(10, 2, 1)
    assert bei("verify", out).code == 0


def test_parts_deleted_by_hand_are_computed_again(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    deleted = parts(output)[1]
    (output / deleted).unlink()
    assert bei("verify", output).code == 1
    assert rows_of(submit(folder, "--json")) == (30, 10, 20)
    assert deleted in parts(output)
    assert bei("verify", output).code == 0


def test_a_part_that_no_plan_contains_is_deleted_by_the_next_submit(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    stray = output / "part-stray-00000000-000000000000-0123456789abcdef.arrow"
    stray.write_bytes((output / parts(output)[0]).read_bytes())
    assert bei("verify", output).code == 1
    assert rows_of(submit(folder, "--json")) == (30, 0, 30)
    assert not stray.exists()
    assert bei("verify", output).code == 0


def test_other_rows_per_shard_leave_an_unchanged_file_its_cut(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    write_parquet(folder / "d.parquet", 10, seed=3, row_group=5)
    assert rows_of(submit(folder, "--rows-per-shard", 5, "--json")) == (40, 10, 30)
    assert len(parts(output)) == 5
    assert bei("verify", output).code == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--dimensions", 8), "--dimensions"),
        (("--normalize",), "--normalize"),
        (("--max-length", 9), "--max-length 128 there, 9 here"),
        (("--prompt", "passage: "), "--prompt"),
        (("--output-dtype", "int8"), "--output-dtype float32 there, int8 here"),
        (("--truncate", "left"), "--truncate"),
        (("--precision", "float32"), "--precision"),
        (("--model", str(Path(TINY).parent / "roberta_mean")), "bert_mean; you ask for"),
    ],
)
def test_another_space_on_the_same_output_is_refused_and_the_difference_named(
    submit: Bei, bei: Bei, folder: Path, output: Path, words: tuple[object, ...], named: str
) -> None:
    assert submit(folder).code == 0
    before = parts(output)
    refused = submit(folder, *words)
    assert refused.code == 1
    assert "holds another job's results" in refused.err
    assert named in refused.err
    assert "--output" in refused.err
    assert len(refused.screen) <= 6
    assert max(map(len, refused.screen)) < 1000
    assert parts(output) == before
    assert bei("status", output, "--json").json["run"] == 1


def test_other_kept_columns_are_a_rewrite_without_computing(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5, lang=["en"] * 5)
    output = tmp_path / "c.embed"
    assert submit(corpus).code == 0
    before = read_output(bei, output)
    with_lang = submit(corpus, "--keep", "lang", "--json")
    assert (with_lang.code, rows_of(with_lang)) == (0, (5, 0, 5))
    table = read_output(bei, output)
    assert table["lang"].to_pylist() == ["en"] * 5
    assert table.drop_columns("lang").equals(before)
    assert bei("verify", output).code == 0
    without = submit(corpus, "--json")
    assert (without.code, rows_of(without)) == (0, (5, 0, 5))
    assert read_output(bei, output).equals(before)


def test_a_column_whose_type_changed_since_the_plan_is_refused_by_name(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    write_parquet(folder / "d.parquet", 3, id=[[1], [2], [3]])
    refused = submit(folder, "--max-bad-files", 0)
    assert refused.code == 1
    assert "d.parquet" in refused.err
    assert "'id'" in refused.err
    assert len(parts(output)) == 3


def test_an_input_that_changes_between_plan_and_reading_is_named_and_can_be_submitted_again(
    submit: Bei, bei: Bei, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Output.start

    def change_then_start(self, run, plan):
        if run.n == 1:
            write_parquet(folder / "b.parquet", 10, seed=5)
        return start(self, run, plan)

    monkeypatch.setattr(Output, "start", change_then_start)
    failed = submit(folder)
    assert failed.code == 1
    assert "b.parquet" in failed.err
    assert "changed since it was planned" in failed.err
    assert "submit again" in failed.err
    assert len(failed.screen) <= 6
    assert len(parts(output)) == 2  # the others are complete and stay
    assert rows_of(submit(folder, "--json")) == (30, 10, 20)
    assert ids(bei, output) == expected_ids(10, 0, 5, 2)
    assert bei("verify", output).code == 0


@pytest.fixture
def long_corpus(tmp_path: Path) -> Path:
    """Many small shards: seconds of work that can be stopped in between."""
    return write_parquet(tmp_path / "long.parquet", 1500, row_group=1500)


def stopped_after_first_parts(
    bei: Bei, corpus: Path, output: Path, signum: signal.Signals
) -> tuple[int, str]:
    """Submit in a process of its own and stop it as soon as something is committed."""
    words = (*LOCAL, "--rows-per-shard", 10, "--output", output)
    process = spawn("submit", corpus, *words)
    until = time.monotonic() + 60
    while not list(output.glob("*.arrow")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "no part within a minute"
        time.sleep(0.005)
    assert bei("status", output, "--json").json["state"] == "running"
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out + err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_job_stopped_in_the_middle_resumes_with_the_same_command(
    submit: Bei, bei: Bei, long_corpus: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    out = tmp_path / "out"
    code, printed = stopped_after_first_parts(bei, long_corpus, out, signum)
    if signum is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert "rows are committed" in printed
        assert "same command" in printed
    committed = len(parts(out))
    assert 0 < committed < 150, "it was not stopped in the middle"
    assert bei("files", out).code == 1
    status = bei("status", out, "--json").json
    assert (status["state"], status["rows"]["done"]) == ("interrupted", committed * 10)
    done = submit(long_corpus, "--output", out, "--json")
    assert rows_of(done) == (1500, 1500 - committed * 10, committed * 10)
    assert ids(bei, out) == expected_ids(1500, 0)
    assert bei("verify", out).code == 0
    assert not list((out / "_bei/tmp").iterdir()) or signum is signal.SIGKILL


def test_two_processes_on_the_same_output_at_once_both_succeed(
    bei: Bei, long_corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("submit", long_corpus, *LOCAL, "--rows-per-shard", 50, "--output", out)
    processes = [spawn(*words), spawn(*words)]
    ended = [(process.communicate(timeout=100), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0, 0], ended
    summaries = [json.loads(out) for (out, _), _ in ended]
    assert {summary["job"] for summary in summaries} == {summaries[0]["job"]}
    # The process that commits a part first computed it: together they computed each row once.
    assert sum(summary["rows"]["computed"] for summary in summaries) == 1500
    assert ids(bei, out) == expected_ids(1500, 0)
    assert bei("verify", out).code == 0


def test_two_processes_with_different_options_cannot_share_an_output(
    bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 50)
    out = tmp_path / "out"
    words = ("submit", corpus, *LOCAL, "--output", out)
    processes = [spawn(*words), spawn(*words, "--dimensions", 8)]
    codes = sorted(process.wait(timeout=100) for process in processes)
    for process in processes:
        process.communicate()
    assert codes == [0, 1]
    assert bei("verify", out).code == 0
    assert ids(bei, out) == expected_ids(50, 0)


def test_a_file_that_changes_every_night_never_leaves_a_stray_row(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    for night in range(4):
        write_parquet(folder / "b.parquet", 5 + night, seed=10 + night)
        done = submit(folder, "--json")
        assert rows_of(done)[0] == 25 + night
        assert len(parts(output)) == 3
        assert bei("verify", output).code == 0


def test_quarantined_rows_of_a_file_that_was_fixed_are_not_quarantined_any_more(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    write_parquet(folder / "b.parquet", 10, seed=1, text=[None, *texts(9)])
    assert submit(folder, "--max-failed-rows", 1).code == 3
    assert len(list((output / "_bei/quarantine").iterdir())) == 1
    write_parquet(folder / "b.parquet", 10, seed=1)
    assert submit(folder, "--max-failed-rows", 1).code == 0
    assert list((output / "_bei/quarantine").iterdir()) == []


def test_the_same_rows_come_out_of_a_job_cut_in_two(
    submit: Bei, bei: Bei, long_corpus: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "short.parquet"
    pq.write_table(pq.read_table(long_corpus).slice(0, 100), corpus)
    assert submit(corpus, "--output", tmp_path / "a", "--rows-per-shard", 25).code == 0
    for part in parts(tmp_path / "a")[::2]:
        (tmp_path / "a" / part).unlink()
    assert submit(corpus, "--output", tmp_path / "a").code == 0
    assert submit(corpus, "--output", tmp_path / "b").code == 0
    one, other = (read_output(bei, tmp_path / name) for name in "ab")
    assert one["id"].to_pylist() == other["id"].to_pylist()
    np.testing.assert_allclose(
        one["embedding"].combine_chunks().flatten().to_numpy(),
        other["embedding"].combine_chunks().flatten().to_numpy(),
        atol=1e-6,
    )
