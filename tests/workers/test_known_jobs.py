"""What a machine remembers of jobs; no job depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.known_jobs import JobRef, KnownJobs, parse_job_ref


def ref(job: str, created: str = "2024-01-01T00:00:00Z") -> JobRef:
    return JobRef(job, f"s3://bucket/{job}", 1, created)


def test_jobs_are_remembered_across_processes_newest_first(tmp_path: Path) -> None:
    one, two = (
        ref("aaaaaaaaaaaa", "2024-01-01T00:00:00Z"),
        ref("bbbbbbbbbbbb", "2024-01-02T00:00:00Z"),
    )
    KnownJobs(tmp_path).add(one)
    KnownJobs(tmp_path).add(two)
    KnownJobs(tmp_path).add(two)
    assert KnownJobs(tmp_path).all() == [two, one]
    assert KnownJobs(tmp_path).find("aaaaaaaaaaaa") == one


def test_a_job_that_is_forgotten_is_gone_and_forgetting_twice_is_fine(tmp_path: Path) -> None:
    known_jobs = KnownJobs(tmp_path)
    known_jobs.add(ref("aaaaaaaaaaaa"))
    known_jobs.forget("aaaaaaaaaaaa")
    known_jobs.forget("aaaaaaaaaaaa")
    assert known_jobs.all() == []
    assert known_jobs.find("aaaaaaaaaaaa") is None


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    known_jobs = KnownJobs(tmp_path)
    known_jobs.add(ref("aaaaaaaaaaaa"))
    for name, text in (("b", "{"), ("c", "[]"), ("d", '{"job": "d"}'), ("e", "")):
        (tmp_path / f"jobs/{name}.json").write_text(text)
    (tmp_path / "jobs/f.json").write_bytes(b"\xff\xfe")
    assert known_jobs.all() == [ref("aaaaaaaaaaaa")]


def test_a_machine_that_cannot_write_its_state_works_without_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    known_jobs = KnownJobs(tmp_path / "file")
    known_jobs.add(ref("aaaaaaaaaaaa"))
    assert known_jobs.all() == []
    assert known_jobs.find("aaaaaaaaaaaa") is None


def test_a_machine_without_memory_knows_nothing(tmp_path: Path) -> None:
    assert KnownJobs(tmp_path / "none").all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"job": "../../config"}, {"job": "A" * 12}, {"job": 5}, {"job": None}, {"output": 5},
        {"output": ""}, {"output": "/tmp/a\0b"}, {"n": "../x"}, {"n": 0}, {"n": True}, {"n": 1e9},
        {"n": 10**12}, {"created": 5}, {"created": "yesterday"},
    ],
)  # fmt: skip
def test_what_is_not_exactly_a_job_is_none(change: dict[str, Any]) -> None:
    right = {"job": "aaaaaaaaaaaa", "output": "s3://bucket/x", "n": 1}
    right["created"] = "2024-01-01T00:00:00Z"
    assert parse_job_ref(json.dumps(right)) == JobRef(**right)
    assert parse_job_ref(json.dumps({**right, "of a later version": 1})) == JobRef(**right)

    assert parse_job_ref(json.dumps({**right, **change})) is None


@pytest.mark.parametrize("text", ["", "null", "5", "[]", "{}", '"x"', "[" * 100_000])
def test_other_json_is_no_job(text: str) -> None:
    assert parse_job_ref(text) is None


def test_a_file_that_names_another_job_is_not_believed(tmp_path: Path) -> None:
    known_jobs = KnownJobs(tmp_path)
    known_jobs.add(ref("aaaaaaaaaaaa"))
    (tmp_path / "jobs/aaaaaaaaaaaa.json").rename(tmp_path / "jobs/bbbbbbbbbbbb.json")

    assert known_jobs.find("bbbbbbbbbbbb") is None
    assert known_jobs.find("../jobs/bbbbbbbbbbbb") is None
