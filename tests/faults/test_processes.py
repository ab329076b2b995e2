"""Processes that are killed, stopped, frozen: at every place of the path of a shard."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from commandline import spawn
from faults.case import Case
from faults.points import POINTS
from faults.processes import ROLES, Role
from fleet import until

pytestmark = [pytest.mark.integration, pytest.mark.kind("process")]

QUICK = {
    ("before-first-batch", "child"),
    ("mid-shard", "device"),
    ("before-commit", "consumer"),
    ("after-commit", "parent"),
}


@pytest.mark.parametrize(
    ("point", "role"),
    [
        pytest.param(
            point,
            role,
            id=f"{role} {point}",
            marks=[pytest.mark.quick] if (point, role) in QUICK else [],
        )
        for point in POINTS
        for role in ROLES
    ],
)
def test_killed(case: Case, point: str, role: Role) -> None:
    paused = case.pause_at(point)
    for _ in range(2):
        case.start(**paused.environment)
    job = case.submit()
    machine = case.owner(paused.reached())
    machine.role(role).kill()
    paused.release()
    case.struck()
    case.finish(job)
    case.check(temporaries=1)


@pytest.mark.quick
def test_a_whole_machine_goes_away_in_the_middle_of_a_shard(case: Case) -> None:
    paused = case.pause_at("mid-shard")
    for _ in range(2):
        case.start(**paused.environment)
    job = case.submit()
    case.owner(paused.reached()).kill()
    case.struck()
    case.finish(job)
    case.check(temporaries=1)


@pytest.mark.parametrize(
    "point", [pytest.param("mid-shard", marks=pytest.mark.quick), "before-commit"]
)
def test_told_to_stop(case: Case, point: str) -> None:
    paused = case.pause_at(point)
    first = case.start(**paused.environment)
    job = case.submit()
    paused.reached()
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping after this batch" in first.log, "the worker to hear it")
    paused.release()
    assert first.process.wait(60) == 0
    case.start()
    case.struck()
    case.finish(job)
    case.check()


def test_told_to_stop_twice(case: Case) -> None:
    paused = case.pause_at("mid-shard")
    first = case.start(**paused.environment)
    job = case.submit()
    paused.reached()
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping after this batch" in first.log, "the worker to hear it")
    assert first.terminate() == 1
    until(lambda: not first.left(), "its processes to end")
    case.start()
    case.struck()
    case.finish(job)
    case.check()


def test_told_to_stop_twice_while_it_starts(case: Case) -> None:
    paused = case.pause_at("before-consumer")
    first = case.start(**paused.environment)
    paused.reached()
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping after this batch" in first.log, "the worker to hear it")
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 1
    case.start()
    job = case.submit()
    case.struck()
    case.finish(job)
    case.check()


@pytest.mark.parametrize("signum", [signal.SIGQUIT, signal.SIGHUP, signal.SIGABRT])
def test_ended_by_another_signal(case: Case, signum: signal.Signals) -> None:
    paused = case.pause_at("mid-shard")
    first = case.start(**paused.environment)
    job = case.submit()
    paused.reached()
    first.process.send_signal(signum)
    first.process.wait(60)
    paused.release()
    until(lambda: not first.left(), "its processes to end")
    case.start()
    case.struck()
    case.finish(job)
    case.check()


@pytest.mark.parametrize(
    "point", [pytest.param("mid-shard", marks=pytest.mark.quick), "before-commit"]
)
def test_a_machine_stands_still_past_its_lease(case: Case, point: str) -> None:
    """Another worker takes the span over; the first one wakes up and finds it done."""
    paused = case.pause_at(point)
    for _ in range(2):
        case.start(**paused.environment)
    job = case.submit()
    sleeper = case.owner(paused.reached())
    before = sleeper.log.count(" rows\n")
    still = sleeper.left()
    for process in still:
        process.suspend()
    case.finish(job)
    case.struck()
    for process in still:
        process.resume()
    paused.release()
    until(lambda: sleeper.log.count(" rows\n") > before, "the sleeper to end its span")
    case.check(computed=1)


@pytest.mark.parametrize("role", ["consumer", "parent"])
def test_a_process_without_a_device_stands_still(case: Case, role: Role) -> None:
    paused = case.pause_at("mid-shard")
    for _ in range(2):
        case.start(**paused.environment)
    job = case.submit()
    still = case.owner(paused.reached()).role(role)
    still.suspend()
    paused.release()
    case.finish(job)
    case.struck()
    still.resume()
    case.check()


def test_a_device_stands_still(case: Case) -> None:
    """Its worker lives and keeps the lease: it takes the device for hung."""
    paused = case.pause_at("mid-shard")
    case.start(BEI_JOBS_BATCH_SECONDS="3", **paused.environment)
    job = case.submit()
    pid = paused.reached()
    case.owner(pid).role("device").suspend()
    paused.release()
    case.struck()
    case.finish(job)
    case.check()


def killed_in_the_foreground(case: Case, output: Path, point: str) -> subprocess.Popen[str]:
    paused = case.pause_at(point)
    words = case.words(case.corpus(), output)
    process = spawn(*words, "--device", "cpu", "--json", **paused.environment)
    at = psutil.Process(paused.reached())
    psutil.Process(process.pid).kill()
    paused.release()
    process.wait()
    # A device process of its own ends with the command that it belongs to.
    deadline = time.monotonic() + 30
    while at.is_running() and at.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the device's process outlives its command"
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=[pytest.mark.quick] if p == "before-commit" else []) for p in POINTS],
)
def test_a_foreground_job_is_killed_and_the_same_command_resumes(case: Case, point: str) -> None:
    output = case.root / "outputs" / "corpus"
    killed_in_the_foreground(case, output, point)
    case.struck()
    done = case.foreground(case.corpus(), output)
    assert done.code == 0, done.err
    assert done.json["rows"]["done"] == 1200
    case.check_local(output, case.corpus(), temporaries=1)
