"""What a machine remembers of jobs; no job depends on it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.output.run import job_id
from pipeline.spec import digest
from workers.known_jobs import JobRef, KnownJobs, parse_job_ref


def ref(n: int, created: str = "2024-01-01T00:00:00Z") -> JobRef:
    return JobRef(job_id("s3://bucket/out", n), "s3://bucket/out", n, created)


def test_jobs_are_remembered_across_processes_newest_first(tmp_path: Path) -> None:
    one, two = ref(1, "2024-01-01T00:00:00Z"), ref(2, "2024-01-02T00:00:00Z")
    KnownJobs(tmp_path).add(one)
    KnownJobs(tmp_path).add(two)
    KnownJobs(tmp_path).add(two)
    assert KnownJobs(tmp_path).all() == [two, one]
    assert KnownJobs(tmp_path).find(one.job) == one


def test_a_job_that_is_forgotten_is_gone_and_forgetting_twice_is_fine(tmp_path: Path) -> None:
    known_jobs, one = KnownJobs(tmp_path), ref(1)
    known_jobs.add(one)
    known_jobs.forget(one.job)
    known_jobs.forget(one.job)
    assert known_jobs.all() == []
    assert known_jobs.find(one.job) is None


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    known_jobs = KnownJobs(tmp_path)
    known_jobs.add(ref(1))
    jobs = tmp_path / "jobs"
    for text in ("{", "[]", '{"job": "d"}', "", "null"):
        (jobs / f"{digest(text)[:12]}.json").write_text(text)
    (jobs / f"{'a' * 12}.json").write_bytes(b"\xff\xfe")
    (jobs / f"{'b' * 12}.json").mkdir()
    (jobs / f"{'c' * 12}.json").symlink_to("nowhere")
    (jobs / f"{'d' * 12}.json").symlink_to("/dev/zero")
    os.mkfifo(jobs / f"{'e' * 12}.json")  # reading it would wait for ever
    with (jobs / f"{'f' * 12}.json").open("wb") as file:
        file.truncate(2**40)
    assert known_jobs.all() == [ref(1)]


def test_a_machine_that_cannot_write_its_state_works_without_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    known_jobs = KnownJobs(tmp_path / "file")
    known_jobs.add(ref(1))
    assert known_jobs.all() == []
    assert known_jobs.find(ref(1).job) is None


def test_a_machine_without_memory_knows_nothing(tmp_path: Path) -> None:
    assert KnownJobs(tmp_path / "none").all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"job": "../../config"}, {"job": "A" * 12}, {"job": 5}, {"job": None}, {"output": 5},
        {"job": "aaaaaaaaaaaa"}, {"output": "s3://bucket/another"}, {"n": 2},
        {"output": ""}, {"output": "/tmp/a\0b"}, {"output": "\ud800"}, {"output": "x" * 9000},
        {"n": "../x"}, {"n": 0}, {"n": True}, {"n": 1e9},
        {"n": 10**12}, {"created": 5}, {"created": "yesterday"},
    ],
)  # fmt: skip
def test_what_is_not_exactly_a_job_is_none(change: dict[str, Any]) -> None:
    right = asdict(ref(1))
    assert parse_job_ref(json.dumps(right)) == JobRef(**right)
    assert parse_job_ref(json.dumps({**right, "of a later version": 1})) == JobRef(**right)

    assert parse_job_ref(json.dumps({**right, **change})) is None


@pytest.mark.parametrize("text", ["", "null", "5", "[]", "{}", '"x"', "[" * 100_000])
def test_other_json_is_no_job(text: str) -> None:
    assert parse_job_ref(text) is None


def test_a_file_that_names_another_job_is_not_believed(tmp_path: Path) -> None:
    known_jobs = KnownJobs(tmp_path)
    known_jobs.add(ref(1))
    (tmp_path / f"jobs/{ref(1).job}.json").rename(tmp_path / "jobs/bbbbbbbbbbbb.json")

    assert known_jobs.find("bbbbbbbbbbbb") is None
    assert known_jobs.find("../jobs/bbbbbbbbbbbb") is None
