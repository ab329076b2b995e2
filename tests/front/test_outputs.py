"""What a job left, read and proved from Python."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from fixtures_s3 import S3Server

import bei_jobs

Submit = Callable[..., bei_jobs.Job]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for an output."""
    if request.param == "local":
        return str(tmp_path / "out")
    server: S3Server = request.getfixturevalue("s3")
    return f"s3://{server.make_bucket()}/out-{uuid.uuid4().hex[:8]}"


def test_the_rows_of_the_newest_run_are_read_in_order_from_any_store(
    submit: Submit, make_corpus: Callable[..., Path], store: str
) -> None:
    submit(make_corpus(30), output=store, rows_per_shard=10).wait()
    dataset = bei_jobs.read(store)
    assert isinstance(dataset, ds.Dataset)
    table = dataset.to_table(columns=["id", "embedding"], filter=pc.field("error").is_null())
    assert table["id"].to_pylist() == [str(row) for row in range(30)]
    assert table.schema.field("embedding").type.list_size == 32
    # A run that failed left parts beside them, which are not read.
    bad = submit(make_corpus(5, name="bad", null=(0,)), output=store, add=True, max_failed_rows=0)
    with pytest.raises(bei_jobs.JobFailed):
        bad.wait()
    assert len(fsspec.open_files(f"{store}/*.arrow")) == 4
    assert bei_jobs.read(store).to_table()["id"].to_pylist() == table["id"].to_pylist()


def test_an_output_without_a_finished_run_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(bei_jobs.NotFound, match="no finished job"):
        bei_jobs.read(tmp_path)


def test_a_sound_output_is_found_sound(shared_job: bei_jobs.Job) -> None:
    job = shared_job
    job.wait()
    found = bei_jobs.verify(job.output)
    assert found == bei_jobs.Verification(
        ok=True, job=job.id, rows=20, parts=1, precisions=("float32",), problems=()
    )


def test_a_damaged_output_is_told_by_its_problems(shared_job: bei_jobs.Job, tmp_path: Path) -> None:
    shared_job.wait()
    output = Path(shutil.copytree(shared_job.output, tmp_path / "copy"))
    (part,) = output.glob("*.arrow")
    part.unlink()
    found = bei_jobs.verify(output)
    assert not found.ok
    assert any("is missing" in problem for problem in found.problems)
