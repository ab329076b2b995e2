"""BEI_JOBS_NOTIFY_FD: whoever starts `submit` hears when the run is planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.errors import UsageError
from workers.settings import load_settings

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(corpus: Path, tiny: dict[str, Any]) -> Iterator[Start]:
    """`bei-jobs submit` with a descriptor to write to."""
    started = []

    def begin(descriptor: int, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bei_jobs", "submit", "--model", tiny["model"], "--json",
             "--rows-per-shard", "10", *map(str, words or (corpus,))],
            env={**os.environ, "BEI_JOBS_NOTIFY_FD": str(descriptor)},
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    reader, writer = os.pipe()
    with open(reader, "rb") as reads, open(writer, "wb") as writes:
        yield reads, writes


def test_one_line_is_said_when_the_run_is_planned_and_no_process_holds_on_to_it(
    start: Start,
    pipe: tuple[BinaryIO, BinaryIO],
    corpus: Path,
    tmp_path: Path,
    busy: Callable[[Path], AbstractContextManager[None]],
) -> None:
    reader, writer = pipe
    with busy(tmp_path / "corpus.embed"):
        process = start(writer.fileno(), corpus, "--device", "cpu,cpu")
        writer.close()
        said = json.loads(reader.read())  # to its end, which comes when nobody has it open
        assert process.poll() is None
    out, err = process.communicate()
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert said == {key: summary[key] for key in ("job", "output", "run")} | {
        "broker": None,
        "stores": None,
    }


def test_a_run_that_cannot_be_planned_closes_without_a_line(
    start: Start, pipe: tuple[BinaryIO, BinaryIO]
) -> None:
    reader, writer = pipe
    process = start(writer.fileno(), "no-such.parquet")
    writer.close()
    assert reader.read() == b""
    process.communicate()
    assert process.returncode == 1


def test_a_reader_that_went_away_does_not_hold_the_job_up(
    start: Start, pipe: tuple[BinaryIO, BinaryIO]
) -> None:
    reader, writer = pipe
    reader.close()
    process = start(writer.fileno())
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["state"] == "done"


@pytest.mark.parametrize("value", ["0", "2", "-1", "three", "4.0", "²", "99999999999"])
def test_what_is_no_descriptor_is_refused_by_name(value: str) -> None:
    with pytest.raises(UsageError, match="BEI_JOBS_NOTIFY_FD"):
        load_settings({"BEI_JOBS_NOTIFY_FD": value})


def test_a_descriptor_is_read_and_none_is_the_default() -> None:
    assert load_settings({"BEI_JOBS_NOTIFY_FD": "3"}).notify_fd == 3
    assert load_settings({"BEI_JOBS_NOTIFY_FD": ""}).notify_fd is None
    assert load_settings({}).notify_fd is None
