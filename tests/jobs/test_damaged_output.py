"""Damaged and stray files below `_bei`: one error that names the file, never a stack trace."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from commandline import Bei

RUN = "_bei/runs/1"
DEEP = "[" * 100_000


@pytest.fixture
def corpus(finished: Path) -> Path:
    """Whose rows are in the output."""
    return finished.parent / "corpus.parquet"


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished output."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def edited(path: Path, **values: object) -> str:
    return json.dumps({**json.loads(path.read_text()), **values})


@pytest.mark.parametrize("content", ["null", "[]", "1", '"text"', "{}", DEEP])
@pytest.mark.parametrize("name", ["run.json", "manifest.json"])
def test_a_file_of_a_run_that_holds_something_else_is_named(
    bei: Bei, submit: Bei, corpus: Path, output: Path, name: str, content: str
) -> None:
    (output / RUN / name).write_text(content)
    for done in (bei("status", output), submit(corpus, "--output", output)):
        assert done.code == 1
        assert f"{RUN}/{name}" in done.screen[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("record", {"versions": []}), ("record", []), ("shards", "3"), ("n", None), ("spec", [])],
)
def test_a_run_whose_values_are_of_other_kinds_is_named(
    bei: Bei, output: Path, key: str, value: object
) -> None:
    path = output / RUN / "run.json"
    path.write_text(edited(path, **{key: value}))
    shown = bei("status", output)
    assert shown.code == 1
    assert f"{RUN}/run.json" in shown.screen[0]


@pytest.mark.parametrize("content", ["{}", "[]", "null", DEEP])
@pytest.mark.parametrize("name", ["failed.json", "cancelled.json"])
def test_how_a_run_ended_is_named_where_it_is_damaged(
    bei: Bei, output: Path, name: str, content: str
) -> None:
    (output / RUN / "manifest.json").unlink()
    (output / RUN / name).write_text(content)
    shown = bei("status", output)
    if (name, content) == ("cancelled.json", "{}"):
        assert "cancelled" in shown.out
        return
    assert shown.code == 1
    assert f"{RUN}/{name}" in shown.screen[0]


@pytest.mark.parametrize("content", ["{}", "[]", "null", "no JSON", '{"shard": []}', DEEP])
def test_a_damaged_failure_of_a_shard_is_skipped_with_a_warning(
    bei: Bei, output: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    caplog.set_level(logging.WARNING, "pipeline")
    (output / RUN / "manifest.json").unlink()
    before = bei("status", output)
    failures = output / RUN / "failures"
    failures.mkdir()
    (failures / "x.json").write_text(content)
    after = bei("status", output)
    assert (after.code, after.out) == (before.code, before.out)
    assert f"{RUN}/failures/x.json" in caplog.text


@pytest.mark.parametrize("name", ["1.bak", "01", "-1", "1/old", "²", "9" * 200])
def test_a_copy_of_a_runs_directory_is_no_run(bei: Bei, output: Path, name: str) -> None:
    before = bei("status", output, "--json")
    shutil.copytree(output / RUN, output / "_bei/runs" / name)
    assert bei("status", output, "--json").json == before.json
    assert bei("history", output).code == 0
    assert bei("verify", output).code == 0


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"space": 1}', DEEP])
def test_another_output_that_is_damaged_is_named(
    submit: Bei, corpus: Path, output: Path, tmp_path: Path, content: str
) -> None:
    (output / "_bei/spec.json").write_text(content)
    refused = submit(corpus, "--output", tmp_path / "other", "--reuse-from", output)
    assert refused.code == 1
    assert "_bei/spec.json" in refused.screen[0]
