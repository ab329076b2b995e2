"""Bad files among good ones are named and skipped, keep their old rows, and are tried again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output
from corpora import TINY, damaged_in_the_middle, parts, write_parquet

from pipeline.input import cutting, reading


def ids(bei: Bei, output: Path) -> list[str]:
    return read_output(bei, output)["id"].to_pylist()


def expected_ids(rows: int, *seeds: int) -> list[str]:
    return [f"{seed}-{row}" for seed in seeds for row in range(rows)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of ten rows, in two shards each."""
    for seed, name in enumerate("abc"):
        write_parquet(tmp_path / f"data/{name}.parquet", 10, seed=seed, row_group=5)
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "data.embed"


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def another_format(path: Path) -> None:
    path.write_bytes(b"id,text\n1,a\n")


def without_the_column(path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"]}), path)


def of_another_type(path: Path) -> None:
    write_parquet(path, 4, id=[[1]] * 4)


def skipped(done: Outcome, *names: str) -> None:
    """The run is done but for these files, which are named with a reason in every way."""
    assert done.code == 3, done.err
    files = done.json["files"]["skipped"]
    assert [Path(file["uri"]).name for file in files] == list(names)
    lines = [line for line in done.err.splitlines() if line.startswith("skipped: ")]
    assert lines == [f"skipped: {file['reason']}" for file in files]
    assert all(file["uri"] in file["reason"] for file in files)


@pytest.mark.parametrize(
    "damage", [truncated, emptied, another_format, without_the_column, of_another_type]
)
def test_a_file_that_turns_bad_keeps_its_rows_and_the_others_are_computed(
    submit: Bei, bei: Bei, folder: Path, output: Path, damage: Callable[[Path], None]
) -> None:
    words = (folder, "--rows-per-shard", 5, "--json")
    assert submit(*words).code == 0
    before = set(parts(output))
    damage(folder / "b.parquet")
    write_parquet(folder / "c.parquet", 10, seed=8)
    write_parquet(folder / "d.parquet", 10, seed=9)

    done = submit(*words)

    skipped(done, "b.parquet")
    assert done.json["files"]["total"] == 4
    assert done.json["rows"] == {
        "total": 40, "done": 40, "computed": 20, "reused": 20, "deduplicated": 0, "failed": 0,
    }  # fmt: skip
    assert ids(bei, output) == expected_ids(10, 0, 1, 8, 9)
    assert len(before & set(parts(output))) == 4
    assert bei("verify", output).code == 0
    status = bei("status", output, "--json")
    assert status.code == 3
    assert status.json["files"] == done.json["files"]


def test_a_run_again_joins_the_run_and_says_again_what_is_skipped(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    truncated(folder / "b.parquet")
    first = submit(folder, "--json")
    skipped(first, "b.parquet")
    assert ids(bei, output) == expected_ids(10, 0, 2)
    assert bei("verify", output).code == 0

    again = submit(folder, "--json")

    skipped(again, "b.parquet")
    assert (again.json["run"], again.json["rows"]["computed"]) == (1, 0)
    said = bei("submit", folder, "--model", TINY, "--device", "cpu")
    assert said.code == 3
    assert "every row of the other files is already computed" in said.err
    assert re.search(r"skipped \S+b\.parquet: ", said.out)


def test_a_bad_file_is_tried_again_until_it_is_good(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    sound, stat = (folder / "b.parquet").read_bytes(), (folder / "b.parquet").stat()
    for _ in range(2):
        truncated(folder / "b.parquet")
        skipped(submit(folder, "--json"), "b.parquet")
    (folder / "b.parquet").write_bytes(sound)
    os.utime(folder / "b.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))

    done = submit(folder, "--json")

    assert done.code == 0
    assert done.json["files"] == {"total": 3, "skipped": []}
    assert done.json["rows"]["reused"] == 30
    assert ids(bei, output) == expected_ids(10, 0, 1, 2)
    assert bei("verify", output).code == 0
    assert bei("status", output).code == 0


def test_a_file_whose_rows_cannot_be_read_is_left_out_once_that_is_seen(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    """Its footer is sound, so the run that reads its rows fails, and the next one goes on."""
    words = (folder, "--rows-per-shard", 5)
    assert submit(*words).code == 0
    sound = damaged_in_the_middle(folder / "b.parquet", 1)
    write_parquet(folder / "d.parquet", 10, seed=3)

    for _ in range(2):  # the next night tries again
        done = submit(*words, "--json")
        skipped(done, "b.parquet")
        assert "rows 5-9" in done.json["files"]["skipped"][0]["reason"]
        assert ids(bei, output) == expected_ids(10, 0, 1, 2, 3)
        assert bei("verify", output).code == 0

    (folder / "b.parquet").write_bytes(sound)
    done = submit(*words, "--json")
    assert (done.code, done.json["files"]["skipped"]) == (0, [])
    assert ids(bei, output) == expected_ids(10, 0, 1, 2, 3)


def test_a_run_after_one_that_a_damaged_file_failed_goes_on_without_it(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    damaged_in_the_middle(folder / "b.parquet", 1)
    words = (folder, "--rows-per-shard", 5)
    assert submit(*words, "--max-bad-files", 0).code == 1
    assert submit(*words, "--max-bad-files", 0).code == 1
    skipped(submit(*words, "--json"), "b.parquet")
    assert bei("verify", output).code == 0


@pytest.mark.parametrize("argument", ["", "*.parquet"])
def test_a_link_that_leads_nowhere_is_a_missing_file(
    submit: Bei, folder: Path, tmp_path: Path, argument: str
) -> None:
    """As when what it leads to is not mounted."""
    (folder / "linked.parquet").symlink_to(tmp_path / "not-mounted/x.parquet")
    done = submit(folder / argument, "--output", tmp_path / "out", "--json")
    skipped(done, "linked.parquet")
    assert "no longer exists" in done.json["files"]["skipped"][0]["reason"]


def test_a_bad_file_that_is_gone_is_dropped_with_its_rows(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    truncated(folder / "b.parquet")
    skipped(submit(folder, "--json"), "b.parquet")
    (folder / "b.parquet").unlink()
    assert submit(folder).code == 0
    assert ids(bei, output) == expected_ids(10, 0, 2)


def test_a_bad_file_that_held_nothing_is_forgotten_once_it_is_gone(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    truncated(folder / "b.parquet")
    skipped(submit(folder, "--json"), "b.parquet")
    (folder / "b.parquet").unlink()
    done = submit(folder, "--json")
    assert (done.code, done.json["rows"]["computed"]) == (0, 0)
    assert bei("status", output).code == 0


def test_rows_of_a_bad_file_are_not_dropped_by_a_version_that_was_never_computed(
    submit: Bei, bei: Bei, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last run planned a newer version of the file and was stopped before it was computed."""
    assert submit(folder).code == 0
    write_parquet(folder / "b.parquet", 12, seed=7)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.run_job.run_in_foreground", None)
        with pytest.raises(TypeError):
            submit(folder)
    truncated(folder / "b.parquet")
    skipped(submit(folder, "--json"), "b.parquet")
    assert ids(bei, output) == expected_ids(10, 0, 1, 2)
    assert bei("verify", output).code == 0


def test_of_a_bad_file_that_was_computed_in_part_that_part_is_kept(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    words = (folder, "--rows-per-shard", 5, "--json")
    assert submit(*words).code == 0
    next(output.glob("part-b.parquet-*-000000000000-*")).unlink()
    truncated(folder / "b.parquet")
    done = submit(*words)
    skipped(done, "b.parquet")
    assert done.json["rows"]["total"] == 25
    assert ids(bei, output) == [
        *expected_ids(10, 0), *expected_ids(10, 1)[5:], *expected_ids(10, 2),
    ]  # fmt: skip
    assert bei("verify", output).code == 0


def test_more_than_half_of_the_files_are_an_error_that_names_them(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    for name in "ab":
        truncated(folder / f"{name}.parquet")
    failed = submit(folder)
    assert failed.code == 1
    assert "more than 1 of 3 input files are bad (--max-bad-files 50%)" in failed.err
    assert all(name in failed.err for name in ("a.parquet", "b.parquet", "→ repair the file"))
    assert not output.exists()
    done = submit(folder, "--max-bad-files", 2, "--json")
    skipped(done, "a.parquet", "b.parquet")
    assert ids(bei, output) == expected_ids(10, 2)


def test_none_allowed_is_the_first_bad_file_as_the_error(
    submit: Bei, folder: Path, output: Path
) -> None:
    for name in "bc":
        truncated(folder / f"{name}.parquet")
    failed = submit(folder, "--max-bad-files", 0, "--json")
    assert failed.code == 1
    assert failed.json["error"].startswith(f"{folder}/b.parquet: not a readable Parquet file")
    assert not output.exists()


def test_a_single_bad_file_is_all_of_the_input(submit: Bei, folder: Path) -> None:
    truncated(folder / "b.parquet")
    failed = submit(folder / "b.parquet", "--json")
    assert failed.code == 1
    assert failed.json["error"].startswith(f"{folder}/b.parquet: not a readable Parquet file")


def test_nothing_but_bad_files_is_no_job(submit: Bei, folder: Path) -> None:
    truncated(folder / "b.parquet")
    failed = submit(folder / "b.parquet", "--max-bad-files", "100%")
    assert failed.code == 1
    assert "not a readable Parquet file" in failed.err


@pytest.mark.parametrize("value", ["many", "101%", "-1"])
def test_a_budget_that_is_none_is_refused(submit: Bei, folder: Path, value: str) -> None:
    refused = submit(folder, f"--max-bad-files={value}")
    assert refused.code == 2
    assert "--max-bad-files" in refused.err
    assert "number of files" in refused.err


def test_a_file_of_text_that_is_not_utf8(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_text(f'{{"id": "{name}", "text": "of {name}"}}\n')
    (folder / "b.jsonl").write_bytes(b'{"id": "b", "text": "\xff"}\n')
    done = submit(folder, "--json")
    skipped(done, "b.jsonl")
    assert "row 0 is not UTF-8" in done.err
    assert ids(bei, tmp_path / "data.embed") == ["a", "c"]


def test_a_file_that_is_gone_between_listing_and_reading(
    submit: Bei, bei: Bei, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(folder).code == 0
    write_parquet(folder / "b.parquet", 10, seed=8)

    def gone(listed: reading.ListedFile, *rest: object) -> reading.FileSummary:
        if listed.path == "b.parquet":
            (folder / "b.parquet").unlink()
        return reading.inspect(listed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cutting, "inspect", gone)
    done = submit(folder, "--json")
    skipped(done, "b.parquet")
    assert "no longer exists" in done.err
    assert ids(bei, output) == expected_ids(10, 0, 1, 2)


def test_a_limit_keeps_the_rows_of_a_bad_file(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder, "--limit", 15).code == 0
    truncated(folder / "a.parquet")
    skipped(submit(folder, "--limit", 15, "--json"), "a.parquet")
    assert set(ids(bei, output)) >= set(expected_ids(10, 0))


def test_quarantined_rows_of_a_bad_file_stay_as_they_are(
    submit: Bei, bei: Bei, folder: Path, output: Path
) -> None:
    write_parquet(folder / "b.parquet", 10, seed=1, text=["x"] * 9 + [None])
    assert submit(folder, "--max-failed-rows", 1).code == 3
    truncated(folder / "b.parquet")
    skipped(submit(folder, "--max-failed-rows", 1, "--json"), "b.parquet")
    again = bei("retry", output)
    assert again.code == 3
    assert "nothing to retry" in again.err
    assert ids(bei, output) == expected_ids(10, 0, 1, 2)


def test_a_run_without_a_bad_file_is_stored_as_before(
    submit: Bei, folder: Path, output: Path
) -> None:
    assert submit(folder).code == 0
    assert "skipped" not in json.loads((output / "_bei/runs/1/run.json").read_bytes())
    truncated(folder / "b.parquet")
    assert submit(folder).code == 3
    ((uri, reason),) = json.loads((output / "_bei/runs/2/run.json").read_bytes())["skipped"]
    assert uri == str(folder / "b.parquet")
    assert "not a readable Parquet file" in reason
