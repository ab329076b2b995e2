"""What a job must never do: delete, double or drop data of others, or repeat a secret."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from commandline import Bei

from pipeline.store.uris import redact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two JSONL files, of 30 and of 60 rows."""
    directory = tmp_path / "in"
    directory.mkdir()
    for name, rows in (("a", 30), ("b", 60)):
        (directory / f"{name}.jsonl").write_text(
            "".join(f'{{"id": "{name}{i}", "text": "row {i} of {name}"}}\n' for i in range(rows))
        )
    return directory


def test_an_output_that_is_the_inputs_own_directory_is_refused(submit: Bei, folder: Path) -> None:
    refused = submit(folder, "--output", folder)

    assert refused.code == 1
    assert "holds the input" in refused.screen[0]
    assert not (folder / "_bei").exists()


def test_an_input_named_like_a_part_is_not_swept_away(submit: Bei, tmp_path: Path) -> None:
    directory = tmp_path / "parts"
    directory.mkdir()
    file = directory / "part-00000.arrow"
    table = pa.table({"text": ["one", "two"]})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

    assert submit(directory, "--output", directory).code == 1
    assert file.exists()


def test_a_directory_with_foreign_arrow_files_is_not_an_output(
    submit: Bei, folder: Path, tmp_path: Path
) -> None:
    foreign_file = tmp_path / "out" / "part-foreign.arrow"
    foreign_file.parent.mkdir()
    foreign_file.write_bytes(b"precious")

    refused = submit(folder, "--output", foreign_file.parent)

    assert refused.code == 1
    assert "part-foreign.arrow" in refused.screen[0]
    assert foreign_file.read_bytes() == b"precious"


def test_a_limit_drops_nothing_of_a_file_that_changed(
    submit: Bei, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert submit(folder, "--output", out).code == 0
    with (folder / "a.jsonl").open("a") as file:
        file.write('{"id": "new", "text": "one more"}\n')

    summary = submit(folder, "--output", out, "--limit", 10, "--json").json

    assert (summary["rows"]["total"], summary["rows"]["reused"]) == (90, 90)


def test_a_limit_takes_the_changed_rows_of_a_file(
    submit: Bei, bei: Bei, folder: Path, tmp_path: Path
) -> None:
    words = (folder, "--output", tmp_path / "out", "--limit", 10, "--json")
    assert submit(*words).json["rows"]["computed"] == 10
    path = folder / "a.jsonl"
    _, *others = path.read_text().splitlines(keepends=True)
    path.write_text('{"id": "new", "text": "another text"}\n' + "".join(others))
    rows = submit(*words).json["rows"]
    assert (rows["total"], rows["computed"], rows["reused"]) == (10, 1, 9)
    assert bei("verify", tmp_path / "out").code == 0


def test_add_with_a_limit_is_refused(submit: Bei, folder: Path, tmp_path: Path) -> None:
    refused = submit(folder, "--output", tmp_path / "out", "--add", "--limit", 5)

    assert refused.code == 2
    assert "--limit" in refused.screen[0]


def test_rows_that_were_planned_and_never_computed_cannot_be_dropped(
    submit: Bei, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:  # the first run never computes a row
        patch.setattr("jobs.run_job.run_here", lambda *_, **__: 1)
        submit(folder, "--output", out)

    tried = submit(folder, "--output", out, "--limit", 2)

    assert tried.code == 0, tried.err


def test_files_that_vanish_in_two_steps_still_count_as_dropped(
    submit: Bei, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c", "d"):
        text = (folder / "a.jsonl").read_text()
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "b.jsonl").unlink()
    out = tmp_path / "out"
    assert submit(folder, "--output", out).code == 0  # a, c, d: 30 rows each
    (folder / "d.jsonl").unlink()
    with monkeypatch.context() as patch:  # the run that drops d never gets to its end
        patch.setattr("jobs.run_job.run_here", lambda *_, **__: 1)
        submit(folder, "--output", out)
    (folder / "c.jsonl").unlink()

    refused = submit(folder, "--output", out)

    assert refused.code == 1
    assert "would drop 60 of the 90 rows" in refused.screen[0]


def test_a_replaced_input_argument_is_remembered(submit: Bei, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert submit(folder, "--output", out).code == 0
    pattern = f"{folder}/*.jsonl"
    assert submit(pattern, "--output", out, "--replace").code == 0

    assert submit(pattern, "--output", out).code == 0


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:ab/cdSECRET@bucket/x.csv",
        "https://user:SECRET@host/x.csv",
        "https://u:p#SECRET@host/x.csv",
        "simplecache::s3://key:SECRET@bucket/x.csv",
        "https://host/m.tar.gz?X-Amz-Signature=SECRET",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(
    submit: Bei, tmp_path: Path, uri: str
) -> None:
    refused = submit(uri, "--output", tmp_path / "out")

    assert refused.code == 2
    assert "SECRET" not in refused.err
    assert "SECRET" not in redact(uri)


@pytest.mark.parametrize(
    "uri", ["http://host:8080/a@b", "s3://bucket/a:b@c", "abfs://container@account/x", "/a/b:c@d"]
)
def test_an_at_sign_that_hides_nothing_stays(uri: str) -> None:
    assert redact(uri) == uri


def test_a_kept_view_of_strings_survives_a_bad_row(submit: Bei, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None], "k": pa.array(["x", "y"], pa.string_view())})
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)

    assert submit(tmp_path / "c.arrow", "--keep", "k", "--max-failed-rows", "1").code == 3
    (bad,) = (tmp_path / "c.embed" / "_bei" / "quarantine").iterdir()
    import pyarrow.parquet as pq

    assert pq.read_table(bad)["k"].to_pylist() == ["y"]


def test_a_device_that_this_machine_lacks_is_reported_before_anything_is_written(
    bei: Bei, folder: Path, tmp_path: Path
) -> None:
    refused = bei("submit", folder, "--output", tmp_path / "out", "--device", "nonsense")

    assert refused.code == 2
    assert not (tmp_path / "out").exists()


def test_a_job_file_with_invalid_values_is_refused(
    submit: Bei, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text("limit = [1]\n")

    refused = submit(folder, "--job-file", tmp_path / "job.toml")

    assert refused.code == 2
    assert "limit" in refused.screen[0]


def test_a_file_whose_name_is_not_unicode_is_named(submit: Bei, folder: Path) -> None:
    import os

    with open(os.fsencode(folder) + b"/\xff.jsonl", "wb") as file:
        file.write(b'{"text": "x"}\n')

    refused = submit(folder)

    assert refused.code == 1
    assert "not valid UTF-8" in refused.screen[0]
