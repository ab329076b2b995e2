"""`bei-jobs retry`: quarantined rows are computed again in place, failed jobs run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output
from corpora import parts, texts, write_parquet

from pipeline.errors import AccessDenied
from pipeline.output.output import Output
from pipeline.output.part_file import read_info
from pipeline.store.directory import Directory
from workers.celery_tasks import check_version

WORDS = ("--rows-per-shard", 10, "--max-failed-rows", 1)
BROKEN = texts(30)[14]


# What fails is patched in this process.
pytestmark = pytest.mark.usefixtures("device_in_this_process")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards of ten rows."""
    return write_parquet(tmp_path / "data/corpus.parquet", 30)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


@pytest.fixture
def nightly(submit: Bei, corpus: Path) -> Callable[[], Outcome]:
    """The same command every night."""
    return lambda: submit(corpus.parent, *WORDS, "--json")


@pytest.fixture
def bug() -> Iterator[pytest.MonkeyPatch]:
    """A bug that takes one text for a null, in one shard; `undo` fixes it."""
    from pipeline.tokenize.texts import TextTokenizer

    def encode_column(self: TextTokenizer, column: pa.Array, prompt: str = "") -> object:
        texts = [text if text != BROKEN else None for text in column.to_pylist()]
        return real(self, pa.array(texts, column.type), prompt)

    real = TextTokenizer.encode_column
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextTokenizer, "encode_column", encode_column)
        yield patch


def counts(outcome: Outcome) -> tuple[int, int, int, int]:
    """Run, and rows computed, reused and failed."""
    rows = outcome.json["rows"]
    assert rows["done"] == rows["total"] == 30
    return outcome.json["run"], rows["computed"], rows["reused"], rows["failed"]


def sound(bei: Bei, output: Path, rows: int = 30) -> bool:
    """Every row is there once, in the listed files and in the glob, and `verify` agrees."""
    assert bei("verify", output).code == 0, bei("verify", output).out
    assert [str(output / name) for name in parts(output)] == bei("files", output).out.split()
    ids = read_output(bei, output)["id"].to_pylist()
    return len(ids) == len(set(ids)) == rows


def quarantined(output: Path) -> list[str]:
    """The parts with a file in quarantine."""
    return sorted(f"{file.stem}.arrow" for file in (output / "_bei/quarantine").glob("*"))


def test_a_fixed_bug_leaves_no_row_quarantined(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, output: Path
) -> None:
    first = nightly()
    assert (first.code, counts(first)) == (3, (1, 29, 0, 1))
    before, (failed,) = parts(output), quarantined(output)
    bug.undo()

    retried = bei("retry", output, "--json")

    assert (retried.code, counts(retried)) == (0, (2, 1, 29, 0))
    assert set(before) - set(parts(output)) == {failed}
    (repaired,) = set(parts(output)) - set(before)
    values = read_info(Directory(str(output)), repaired).values
    assert values["resumed"] == "9", "rows that were not quarantined are not computed again"
    assert quarantined(output) == []
    assert read_output(bei, output)["error"].null_count == 30
    assert sound(bei, output)


def test_a_row_that_still_fails_stays_quarantined_once(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, output: Path
) -> None:
    assert nightly().code == 3
    names = set(quarantined(output))

    for run in (2, 3):
        retried = bei("retry", output, "--json")
        assert (retried.code, counts(retried)) == (3, (run, 0, 29, 1))
        assert len(quarantined(output)) == 1
        assert sound(bei, output)
        names |= set(quarantined(output))

    assert len(names) == 3, "a part was written over another one"


def test_nights_after_a_repair_compute_what_is_new_alone(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, corpus: Path, output: Path
) -> None:
    assert nightly().code == 3
    bug.undo()
    assert bei("retry", output).code == 0

    again = nightly()
    assert (again.code, counts(again)) == (0, (2, 0, 30, 0))
    write_parquet(corpus.with_name("more.parquet"), 10, seed=1)
    added = nightly()

    assert (added.code, added.json["rows"]["computed"]) == (0, 10)
    assert sound(bei, output, 40)


def test_a_limit_keeps_a_repair(
    submit: Bei, bei: Bei, bug: pytest.MonkeyPatch, corpus: Path, output: Path
) -> None:
    words = (corpus.parent, *WORDS, "--limit", 20, "--json")
    assert submit(*words).code == 3
    bug.undo()
    assert bei("retry", output).code == 0

    assert submit(*words).json["rows"]["computed"] == 0


def test_a_job_without_quarantined_rows_has_nothing_to_retry(
    bei: Bei, nightly: Callable[[], Outcome], output: Path
) -> None:
    assert nightly().code == 0

    retried = bei("retry", output)

    assert retried.code == 0
    assert "nothing to retry" in retried.err
    assert bei("status", output, "--json").json["run"] == 1


def test_readers_see_the_old_rows_until_the_repair_is_done(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, output: Path, redis_url: str
) -> None:
    assert nightly().code == 3
    listed = bei("files", output).out
    bug.undo()

    queued = bei("retry", output, "--broker", redis_url, "--json")

    assert (queued.code, queued.json["state"], queued.json["run"]) == (0, "waiting for workers", 2)
    assert queued.json["shards"] == {"total": 3, "done": 2, "failed": 0}
    assert bei("files", output).out == listed
    assert bei("verify", output).code == 0
    store = Output(str(output))
    check_version(store.run(2), store.plan(store.run(2)))  # as a worker does
    assert counts(nightly()) == (2, 1, 29, 0)  # the next night joins it
    assert bei("files", output).out != listed
    assert sound(bei, output)


def test_a_row_whose_file_changed_is_named_and_the_old_rows_stay(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, corpus: Path, output: Path
) -> None:
    assert nightly().code == 3
    listed = bei("files", output).out
    bug.undo()
    os.utime(corpus)

    retried = bei("retry", output)

    assert retried.code == 1
    assert "changed since it was planned" in retried.err
    assert "submit again" in retried.err
    assert bei("files", output).out == listed
    assert bei("verify", output).code == 0
    assert nightly().code == 0
    assert sound(bei, output)


def test_a_failed_job_runs_again_and_says_that_quarantined_rows_wait(
    submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    write_parquet(corpus, 30, text=[None, *texts(29)])
    failed = submit(corpus.parent, *WORDS, "--max-failed-rows", 0, "--json")
    assert failed.code == 1

    retried = bei("retry", failed.json["job"])

    assert retried.code == 1
    assert "kept as they are (1): once the job is done, retry it again" in retried.err
    assert "1 of 30 rows failed" in retried.err
    assert bei("status", output, "--json").json["run"] == 1


def test_a_failed_shard_is_computed_by_a_retry_under_the_same_id(
    bei: Bei, nightly: Callable[[], Outcome], output: Path
) -> None:
    def refuse_the_second(store: Output, part: str, data: memoryview) -> bool:
        if "-000000000010-" in part:
            raise AccessDenied("the store refuses", hint="give it the permission to write")
        return commit(store, part, data)

    commit = Output.commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Output, "commit", refuse_the_second)
        failed = nightly()
    assert (failed.code, failed.json["state"]) == (1, "failed")

    retried = bei("retry", output, "--json")

    assert (retried.code, counts(retried)) == (0, (1, 10, 20, 0))
    assert retried.json["job"] == failed.json["job"]
    assert sound(bei, output)


def test_a_superseded_job_is_refused_with_the_output_to_retry(
    submit: Bei, bei: Bei, nightly: Callable[[], Outcome], corpus: Path, output: Path
) -> None:
    job = nightly().json["job"]
    write_parquet(corpus.with_name("more.parquet"), 10, seed=1)
    assert nightly().code == 0

    refused = bei("retry", job)

    assert refused.code == 1
    assert f"superseded the job {job}" in refused.screen[0]
    assert f"bei-jobs retry {output}" in refused.err


def test_a_plan_without_repairs_is_stored_as_it_always_was(
    bei: Bei, nightly: Callable[[], Outcome], bug: pytest.MonkeyPatch, output: Path
) -> None:
    assert nightly().code == 3
    assert bei("retry", output).code == 3

    first, second = (
        pq.read_table(next((output / f"_bei/runs/{n}").glob("plan-*"))) for n in (1, 2)
    )

    assert first.column_names == ["file", "first_row", "rows", "byte_offset", "shard", "part"]
    assert second["repair"].to_pylist() == [0, 1, 0]
