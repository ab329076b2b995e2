"""Slots as processes run them: kill -9 of a scheduler and of a backfill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, spawn
from corpora import ROOT, TINY, write_parquet

from jobs.schedules.run_slot import SlotRunner
from jobs.schedules.schedule import read_schedule
from jobs.schedules.scheduler import Scheduler
from jobs.schedules.slots import Slots
from pipeline.output.output import Output

SLOT = datetime(2026, 1, 2, 2, tzinfo=UTC)
DAYS = ("2026-01-02", "2026-01-03")
#: A scheduler for which it always is the same moment.
PROGRAM = """
import sys
from datetime import UTC, datetime
from jobs.schedules.run_slot import SlotRunner
from jobs.schedules.schedule import read_schedule
from jobs.schedules.scheduler import Scheduler
from jobs.schedules.slots import Slots
Scheduler(sys.argv[1], 0.5, clock=lambda: datetime.fromisoformat(sys.argv[2])).run()
"""


@pytest.fixture
def nightly(tmp_path: Path) -> Path:
    """A schedule whose slots each read and write a directory of their own."""
    for day in DAYS:
        write_parquet(tmp_path / f"in/day={day}/rows.parquet", 5)
    folder = tmp_path / "schedules"
    folder.mkdir()
    path = folder / "nightly.toml"
    path.write_text(
        'cron = "0 2 * * *"\ncatch-up = "all"\n'
        'inputs = ["../in/day={slot:%F}"]\noutput = "../out/{slot:%F}"\n'
        f'model = "{TINY}"\ndevice = "cpu"\n'
    )
    return path


def records(folder: Path, state: str) -> list[Path]:
    return sorted((folder / "out/_slots").glob(f"nightly-*/*-{state}.json"))


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 100
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


class Done:
    """A job that has ended."""

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def terminate(self) -> None: ...


def test_the_slot_of_a_scheduler_that_fell_silent_is_taken_over_and_not_before(
    nightly: Path,
) -> None:
    schedule = read_schedule(str(nightly))
    assert schedule is not None
    seconds = 0.0
    first, second = Slots(schedule, 120), Slots(schedule, 120, lambda: seconds)
    claim = first.claim(SLOT, None, "out")
    assert claim is not None

    def is_free() -> bool:
        return second.is_free(second.attempts()[SLOT])

    assert not is_free()
    seconds = 100
    claim.renew()
    assert not is_free()
    seconds = 219
    assert not is_free()
    seconds = 220
    assert is_free()
    before = second.attempts()[SLOT]
    assert second.claim(SLOT, before, "out") is not None
    assert first.claim(SLOT, before, "out") is None
    claim.end("done", {"exit_code": 0})
    assert second.attempts()[SLOT].state == "done"


def test_a_claim_is_renewed_as_long_as_its_job_runs(nightly: Path, tmp_path: Path) -> None:
    released = threading.Event()

    class Job(Done):
        def wait(self, timeout: float | None = None) -> int:
            if not released.wait(timeout):
                raise subprocess.TimeoutExpired("submit", timeout or 0)
            return 0

    schedule = read_schedule(str(nightly))
    assert schedule is not None
    claim = Slots(schedule, 120).claim(SLOT, None, "out")
    assert claim is not None
    (file,) = records(tmp_path, "running")
    first = file.read_text()
    runner = SlotRunner(0.01, lambda *_: Job())
    runner.run(schedule, SLOT, claim)
    try:
        until(lambda: file.read_text() != first, "the claim to be renewed")
    finally:
        released.set()
        runner.join()
    assert len(records(tmp_path, "done")) == 1


@pytest.fixture
def schedulers(nightly: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two of them in the second night; the first is done."""
    for moment in ("2026-01-01T12:00Z", "2026-01-02T12:00Z"):
        now = datetime.fromisoformat(moment)
        scheduler = Scheduler(
            str(nightly.parent), 0.5, clock=partial(lambda at: at, now), start=lambda *_: Done()
        )
        scheduler.look()
        scheduler.runner.join()
    words = [sys.executable, "-c", PROGRAM, str(nightly.parent), "2026-01-03T12:00:00+00:00"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(words, cwd=ROOT, env=environment) for _ in range(2)]
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_two_schedulers_alive_and_one_killed_in_the_middle_of_a_slot_run_every_slot_once(
    bei: Bei, nightly: Path, tmp_path: Path, schedulers: list[subprocess.Popen[bytes]]
) -> None:
    _, claim = until(
        lambda: len(found := records(tmp_path, "running")) == len(DAYS) and found,
        "the second slot to be claimed",
    )
    (owner,) = re.findall(r'"owner": "[^"]*:(\d+)"', claim.read_text())
    (killed,) = [process for process in schedulers if process.pid == int(owner)]
    (survivor,) = [process for process in schedulers if process is not killed]
    os.kill(killed.pid, signal.SIGKILL)
    assert len(records(tmp_path, "done")) == 1
    until(lambda: len(records(tmp_path, "done")) == len(DAYS), "every slot to be done")
    survivor.kill()
    *names, since = [path.name for path in records(tmp_path, "*")]
    assert names == [
        "20260102T0200Z-1-done.json",
        "20260102T0200Z-1-running.json",
        "20260103T0200Z-1-running.json",  # of the one that was killed
        "20260103T0200Z-2-done.json",
        "20260103T0200Z-2-running.json",
    ]
    assert since.startswith("since-")
    output = tmp_path / "out" / DAYS[1]
    assert bei("verify", output).code == 0
    assert Output(str(output)).run_numbers() == [1]


def test_a_scheduler_runs_until_it_is_told_to_stop(nightly: Path, tmp_path: Path) -> None:
    process = spawn("schedule", "run", nightly.parent)
    try:
        until(lambda: list((tmp_path / "out/_slots").glob("nightly-*/since-*")), "a first look")
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    assert "nightly: 0 2 * * *" in err
    assert "Traceback" not in err


#: A backfill with jobs that end at once, except the second, which ends with the backfill.
BACKFILL = f"""
import subprocess, sys
from jobs.cli import main
from jobs.schedules import run_slot

def start(job_file, out):
    code = "" if "{DAYS[0]}" in job_file.read_text() else "input()"
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)

run_slot.start_submit = start
main()
"""


def test_a_backfill_that_is_killed_resumes_and_runs_no_slot_again_that_is_done(
    bei: Bei, nightly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_LEASE_SECONDS", "0.5")
    words = ["backfill", str(nightly), "--from", DAYS[0], "--to", DAYS[-1]]
    process = subprocess.Popen([sys.executable, "-c", BACKFILL, *words], cwd=ROOT)
    try:
        until(lambda: len(records(tmp_path, "running")) == len(DAYS), "the second slot to begin")
    finally:
        process.kill()
        process.wait()
    assert len(records(tmp_path, "done")) == 1
    ran = []
    monkeypatch.setattr(
        "jobs.schedules.run_slot.start_submit",
        lambda job_file, out: ran.append(job_file.read_text()) or Done(),
    )
    resumed = bei(*words, "--json")
    assert resumed.code == 0, resumed.err
    assert len(ran) == 1
    assert DAYS[1] in ran[0]
    slots = resumed.json["slots"]
    assert [(slot["slot"], slot["state"], slot["attempt"]) for slot in slots] == [
        ("2026-01-02T02:00:00Z", "done", 1), ("2026-01-03T02:00:00Z", "done", 2),
    ]  # fmt: skip
    assert bei(*words).code == 0
    assert len(ran) == 1
