"""Disks that fill up or become read-only in the middle of a job, and are repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from commandline import spawn
from faults.case import Case
from faults.disks import SmallDisk
from fleet import until

pytestmark = [pytest.mark.integration, pytest.mark.kind("disk")]

Break = Callable[[SmallDisk], None]
FAULTS: list[tuple[Break, Break]] = [
    (SmallDisk.fill, SmallDisk.free),
    (SmallDisk.read_only, SmallDisk.writable),
]
IDS = ["full", "read-only"]


@pytest.fixture
def disk(case: Case) -> Iterator[SmallDisk]:
    disk = SmallDisk.mount(case.root / "disk", megabytes=8)
    yield disk
    case.close()
    disk.unmount()


@pytest.mark.parametrize(
    ("damage", "repair"), [pytest.param(*FAULTS[0], marks=pytest.mark.quick), FAULTS[1]], ids=IDS
)
def test_the_output_s_disk_of_a_fleet_is(
    case: Case, disk: SmallDisk, damage: Break, repair: Break
) -> None:
    paused = case.pause_at("before-commit")
    machine = case.start(**paused.environment)
    job = case.submit(output=disk.path / "out")
    paused.reached()
    damage(disk)
    paused.release()
    until(lambda: "ERROR" in machine.log, "the worker to say so")
    repair(disk)
    case.struck()
    case.finish_or_resume(job)
    case.check(failures=18, computed=18)


@pytest.mark.parametrize(("damage", "repair"), FAULTS, ids=IDS)
def test_the_output_s_disk_of_a_foreground_job_is(
    case: Case, disk: SmallDisk, damage: Break, repair: Break
) -> None:
    corpus, output = case.corpus(), disk.path / "out"
    paused = case.pause_at("before-commit")
    process = spawn(*case.words(corpus, output), "--device", "cpu", **paused.environment)
    paused.reached()
    damage(disk)
    paused.release()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err, err
    assert str(output) in err or "No space left" in err or "Read-only" in err, err
    repair(disk)
    case.struck()
    done = case.foreground(corpus, output)
    assert done.code == 0, done.err
    case.check_local(output, corpus)


@pytest.mark.parametrize(("damage", "repair"), FAULTS, ids=IDS)
def test_the_state_s_disk_of_a_worker_is(
    case: Case, disk: SmallDisk, damage: Break, repair: Break
) -> None:
    """What a machine remembers is a help, never a need."""
    state = disk.path / "state"
    machine = case.start(BEI_JOBS_STATE_DIR=str(state))
    machine.ready()
    damage(disk)
    job = case.submit()
    case.finish(job)
    case.struck()
    repair(disk)
    assert machine.process.poll() is None
    case.check()
