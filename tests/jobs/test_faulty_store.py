"""Whole jobs on a store that fails: they end well, and no row is lost or doubled."""

from __future__ import annotations

import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from commandline import Bei, spawn
from corpora import TINY, write_parquet
from faulty_s3 import FaultyS3

ROWS = 40


@pytest.fixture
def place(s3, faulty_s3: FaultyS3, tmp_path: Path) -> str:
    """A bucket with a corpus in it."""
    root = f"s3://{s3.make_bucket()}"
    local = write_parquet(tmp_path / "corpus.parquet", ROWS)
    fsspec.filesystem("s3").put_file(str(local), f"{root}/corpus.parquet")
    faulty_s3.heal()
    return root


def ids(bei: Bei, output: str) -> list[str]:
    rows: list[str] = []
    for uri in bei("files", output).out.split():
        with fsspec.open(uri, "rb") as file, pa.ipc.open_file(file) as reader:
            rows += reader.read_all()["id"].to_pylist()
    return rows


def words(place: str) -> tuple[object, ...]:
    return f"{place}/corpus.parquet", "--output", f"{place}/out", "--rows-per-shard", 5


@pytest.mark.parametrize(
    ("faults", "methods", "share"),
    [(("500", "503"), (), 0.1), (("409",), ("PUT",), 0.3), (("truncate",), ("GET",), 0.3)],
)
def test_a_job_on_a_store_that_often_fails(
    submit: Bei, bei: Bei, place: str, faulty_s3: FaultyS3, faults, methods, share: float
) -> None:
    for fault in faults:
        faulty_s3.inject(fault, methods=methods, share=share)
    done = submit(*words(place), "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == ROWS
    status = bei("status", f"{place}/out", "--json")
    assert (status.code, status.json["state"]) == (0, "done")
    assert bei("verify", f"{place}/out").code == 0
    assert faulty_s3.faults
    faulty_s3.heal()
    assert ids(bei, f"{place}/out") == [f"0-{row}" for row in range(ROWS)]


def test_a_job_whose_every_write_loses_its_answer(
    submit: Bei, bei: Bei, place: str, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("cut", methods=("PUT",))
    done = submit(*words(place), "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == ROWS
    objects = len(
        {path.partition("?")[0] for method, path in faulty_s3.requests if method == "PUT"}
    )
    # Each write, once more by the HTTP client, for its connection was closed.
    assert faulty_s3.count("PUT") <= 2 * objects + 2
    faulty_s3.heal()
    assert bei("verify", f"{place}/out").code == 0
    assert ids(bei, f"{place}/out") == [f"0-{row}" for row in range(ROWS)]


def test_a_store_that_refuses_is_not_asked_again(
    submit: Bei, place: str, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("403")
    refused = submit(*words(place))
    assert refused.code == 1
    assert "access denied" in refused.screen[0]
    assert len(faulty_s3.faults) <= 3


def test_a_dead_store_ends_a_submit_with_one_error(
    submit: Bei, place: str, faulty_s3: FaultyS3, clock
) -> None:
    faulty_s3.inject("503")
    dead = submit(*words(place))
    assert dead.code == 1
    assert clock.now <= 120
    (error,) = [line for line in dead.screen if line.startswith("bei-jobs: ")]
    assert "the store answered ServiceUnavailable" in error
    assert "tried" in error


def test_ctrl_c_ends_the_wait_for_a_store(place: str, faulty_s3: FaultyS3) -> None:
    faulty_s3.inject("503")
    asked = threading.Event()
    counted = faulty_s3.fault_of

    def counting(method: str, path: str) -> str:
        if faulty_s3.count() >= 4:
            asked.set()
        return counted(method, path)

    faulty_s3.fault_of = counting  # type: ignore[method-assign]
    process = spawn("submit", *words(place), "--model", TINY, "--device", "cpu")
    try:
        assert asked.wait(100)
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
