"""Schedules: every slot once, missed ones caught up, over any number of schedulers."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei

from jobs.schedules.cron import Cron
from jobs.schedules.scheduler import Scheduler, due_slots

NIGHTLY = 'cron = "0 2 * * *"\ninputs = ["in/"]\noutput = "out/{slot:%F}"\n'


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Jobs:
    """Stands for the processes of `submit`: each runs until it is released, or ends at once."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.ran: list[str] = []
        self.started = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, job_file: Path, out: Path) -> Jobs:
        self.ran.append(Path(tomllib.loads(job_file.read_text())["output"]).name)
        out.write_text(json.dumps({"job": "0123456789ab"}))
        self.started.set()
        return self

    def wait(self, timeout: float | None = None) -> int:
        if not self.hold.wait(timeout):
            raise subprocess.TimeoutExpired("submit", timeout or 0)
        return self.code

    def terminate(self) -> None:
        self.code = 130
        self.hold.set()


class Night:
    """Schedulers of one directory, at a time that the test sets."""

    def __init__(self, folder: Path, jobs: Jobs) -> None:
        self.folder = folder
        self.jobs = jobs
        self.now = at("2026-01-01T12:00")

    def scheduler(self) -> Scheduler:
        return Scheduler(str(self.folder), 30, clock=lambda: self.now, start=self.jobs)

    def look(self, scheduler: Scheduler | None = None, times: int = 6) -> None:
        scheduler = scheduler or self.scheduler()
        for _ in range(times):
            scheduler.look()
            scheduler.runner.join()


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def night(tmp_path: Path, jobs: Jobs) -> Night:
    (tmp_path / "schedules").mkdir()
    return Night(tmp_path / "schedules", jobs)


def write(night: Night, text: str = NIGHTLY, name: str = "nightly") -> Path:
    path = night.folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_new_schedule_begins_with_its_next_slot(night: Night, jobs: Jobs) -> None:
    write(night)
    scheduler = night.scheduler()
    night.look(scheduler)
    night.now = at("2026-01-02T01:59:59")
    night.look(scheduler)
    assert jobs.ran == []
    night.now = at("2026-01-02T02:00")
    night.look(scheduler)
    assert jobs.ran == ["2026-01-02"]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("last", ["2026-01-05"]), ("all", [f"2026-01-0{day}" for day in (2, 3, 4, 5)])],
)
def test_after_days_of_downtime_missed_slots_are_caught_up(
    night: Night, jobs: Jobs, catch_up: str, expected: list[str]
) -> None:
    write(night, f'{NIGHTLY}catch-up = "{catch_up}"\n')
    night.look()
    night.now = at("2026-01-05T14:00")
    night.look()
    assert jobs.ran == expected
    night.look()  # a scheduler that was started anew
    assert jobs.ran == expected


def test_another_cron_begins_anew(night: Night, jobs: Jobs) -> None:
    write(night, f'{NIGHTLY}catch-up = "all"\n')
    night.look()
    night.now = at("2026-01-05T14:00")
    write(night, f'{NIGHTLY}catch-up = "all"\n'.replace("0 2", "0 3"))
    night.look()
    assert jobs.ran == []


@pytest.mark.parametrize("output", ["out/{slot:%F}", "out"])
def test_of_two_schedulers_one_runs_a_slot(night: Night, jobs: Jobs, output: str) -> None:
    write(night, NIGHTLY.replace("out/{slot:%F}", output))
    first, second = night.scheduler(), night.scheduler()
    night.look(first)
    night.now = at("2026-01-02T02:00")
    jobs.hold.clear()
    first.look()
    assert jobs.started.wait(60)
    second.look()
    night.now = at("2026-01-03T02:00")  # the next slot waits for this one, wherever it runs
    second.look()
    assert len(jobs.ran) == 1
    jobs.hold.set()
    first.runner.join()
    second.look()
    first.look()
    for scheduler in (first, second):
        scheduler.runner.join()
    assert len(jobs.ran) == 2


def test_a_stopped_slot_goes_on_elsewhere_at_once_even_where_only_the_last_is_caught_up(
    night: Night, jobs: Jobs
) -> None:
    write(night)
    scheduler = night.scheduler()
    night.look(scheduler)
    night.now = at("2026-01-02T02:00")
    jobs.hold.clear()
    scheduler.look()
    assert jobs.started.wait(60)
    scheduler.runner.request_stop()
    scheduler.runner.join()
    night.now = at("2026-01-04T12:00")
    jobs.code = 0
    night.look()
    assert jobs.ran == ["2026-01-02", "2026-01-02", "2026-01-04"]


@pytest.mark.parametrize(
    ("code", "state"), [(0, "done"), (3, "done"), (1, "failed"), (-9, "failed")]
)
def test_how_a_slot_ended_is_listed_and_it_is_not_run_again(
    night: Night, jobs: Jobs, bei: Bei, code: int, state: str
) -> None:
    path = write(night)
    night.look()
    night.now = at("2026-01-02T02:00")
    jobs.code = code
    night.look()
    assert jobs.ran == ["2026-01-02"]
    (row,) = bei("schedule", "list", night.folder, "--json").json["schedules"]
    last = row.pop("last")
    assert (last["slot"], last["state"], last["exit_code"], last["job"]) == (
        "2026-01-02T02:00:00Z", state, code, "0123456789ab",
    )  # fmt: skip
    assert last["started"] <= last["finished"]
    assert last["output"] == str(night.folder / "out/2026-01-02")
    assert datetime.fromisoformat(row.pop("next")) > datetime.now(UTC)
    assert row == {
        "name": "nightly", "file": str(path), "cron": "0 2 * * *", "timezone": "UTC",
        "catch_up": "last", "output": str(night.folder / "out/{slot:%F}"),
    }  # fmt: skip
    shown = bei("schedule", "list", night.folder).out
    assert f"2026-01-02T02:00:00Z {state}, exit code {code}" in shown


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no TOML", "cannot be read"),
        (f"{NIGHTLY}text-colum = 'x'", "text-column"),
        (NIGHTLY.replace("0 2", "0 99"), "hour"),
        (f"{NIGHTLY}timezone = 'Europe/Berlim'", "Berlim"),
        (f"{NIGHTLY}catch-up = 'some'", "catch-up"),
        (f"{NIGHTLY}limit = 'many'", "limit"),
        ('cron = "0 2 * * *"', "inputs"),
        (NIGHTLY.replace("%F", "%Q"), "output"),
        (NIGHTLY.replace("out/", "s3://out-"), "no directory"),
    ],
)
def test_a_bad_file_is_named_and_stops_no_other(
    night: Night, jobs: Jobs, bei: Bei, caplog: pytest.LogCaptureFixture, text: str, named: str
) -> None:
    write(night)
    write(night, text, "bad")
    caplog.set_level(logging.INFO, "jobs")
    night.look()
    night.now = at("2026-01-02T02:00")
    night.look()
    assert jobs.ran == ["2026-01-02"]
    (line,) = {record.message for record in caplog.records if "bad.toml" in record.message}
    assert named in line
    listed = bei("schedule", "list", night.folder)
    (shown,) = [line for line in listed.out.splitlines() if line.startswith("bad.toml")]
    assert named in shown
    assert listed.screen == []


def test_a_file_that_no_parser_survives_stops_no_other(night: Night, jobs: Jobs, bei: Bei) -> None:
    write(night)
    write(night, f"x = {'[' * 2000}{']' * 2000}", "deep")
    write(night, f"x = {'1' * 5000}", "digits")
    night.look()
    night.now = at("2026-01-02T02:00")
    night.look()
    assert jobs.ran == ["2026-01-02"]
    listed = bei("schedule", "list", night.folder).out.splitlines()
    refused = [line for line in listed if "refused" in line]
    assert [line.split()[0] for line in refused] == ["deep.toml", "digits.toml"]
    assert "are nested too deeply" in refused[0]
    assert "a number has too many digits" in refused[1]
    assert all("cannot be read" in line for line in refused)


SINCE = "since-*.json"


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        (SINCE, "{}"),
        (SINCE, "[]"),
        (SINCE, "null"),
        (SINCE, "no JSON"),
        (SINCE, "[" * 100_000),
        (SINCE, '{"since": 1}'),
        (SINCE, '{"since": "2026-01-01"}'),
        ("20261399T9999Z-1-done.json", "{}"),
    ],
)
def test_a_damaged_record_of_one_schedule_stops_no_other(
    night: Night, jobs: Jobs, caplog: pytest.LogCaptureFixture, damaged: str, content: str
) -> None:
    caplog.set_level(logging.INFO, "jobs")
    for name in ("bad", "good"):
        write(night, NIGHTLY.replace("out/{slot:%F}", name), name)
    night.look()
    records = night.folder / "bad/_bei/slots/bad"
    (since,) = records.glob(SINCE)
    (since if damaged == SINCE else records / damaged).write_text(content)
    night.now = at("2026-01-02T02:00")
    caplog.clear()
    night.look()
    skipped = damaged != SINCE
    assert jobs.ran == (["bad", "good"] if skipped else ["good"])
    lines = {record.message for record in caplog.records if record.levelname != "INFO"}
    (line,) = lines
    assert (since.name if damaged == SINCE else damaged) in line
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", "no JSON", "[" * 100_000, '{"exit_code": []}']
)
def test_a_damaged_record_of_a_slot_is_listed_by_what_its_name_says(
    night: Night, bei: Bei, content: str
) -> None:
    path = write(night)
    night.look()
    night.now = at("2026-01-02T02:00")
    night.look()
    (record,) = night.folder.glob("out/_slots/nightly-*/*-done.json")
    record.write_text(content)
    (row,) = bei("schedule", "list", night.folder, "--json").json["schedules"]
    last = row["last"]
    assert (last["slot"], last["attempt"], last["state"]) == ("2026-01-02T02:00:00Z", 1, "done")
    assert (record.name in last.get("error", "")) == (content != "{}")
    shown = bei("schedule", "list", night.folder)
    assert (shown.code, shown.err) == (0, "")
    assert "2026-01-02T02:00:00Z done" in shown.out
    table = bei("backfill", path, "--from", "2026-01-02", "--to", "2026-01-02")
    assert table.code == 0, table.err
    assert "2026-01-02T02:00:00Z  done" in table.out


def test_an_error_of_ours_over_one_schedule_stops_no_other_and_is_logged_once(
    night: Night, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, catch_up in (("bad", "all"), ("good", "last")):
        text = NIGHTLY.replace("out/{slot:%F}", name)
        write(night, f'{text}catch-up = "{catch_up}"\n', name)
    caplog.set_level(logging.INFO, "jobs")

    def broken(slots: Any, attempts: Any, catch_up: Any) -> Any:
        if catch_up == "all":
            raise ZeroDivisionError
        return due_slots(slots, attempts, catch_up)

    scheduler = night.scheduler()
    night.look(scheduler)
    monkeypatch.setattr("jobs.schedules.scheduler.due_slots", broken)
    night.now = at("2026-01-02T02:00")
    night.look(scheduler)
    assert jobs.ran == ["good"]
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.message.startswith("bad: ")
    assert line.exc_info is not None


def test_an_error_of_ours_over_one_file_stops_no_other(
    night: Night, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, bei: Bei
) -> None:
    def broken(expression: str, timezone: str) -> Cron:
        if timezone == "Europe/Berlin":
            raise ZeroDivisionError
        return Cron(expression, timezone)

    monkeypatch.setattr("jobs.schedules.schedule.Cron", broken)
    write(night, f'{NIGHTLY}timezone = "Europe/Berlin"\n', "bad")
    write(night)
    night.look()
    night.now = at("2026-01-02T02:00")
    night.look()
    assert jobs.ran == ["2026-01-02"]
    assert "ZeroDivisionError" in bei("schedule", "list", night.folder).out


def test_a_file_that_is_repaired_runs_and_one_that_is_gone_does_not(
    night: Night, jobs: Jobs
) -> None:
    path = write(night, "no TOML")
    scheduler = night.scheduler()
    night.look(scheduler)
    write(night)
    night.look(scheduler)
    night.now = at("2026-01-02T02:00")
    night.look(scheduler)
    path.unlink()
    night.now = at("2026-01-03T02:00")
    night.look(scheduler)
    assert jobs.ran == ["2026-01-02"]


@pytest.mark.parametrize(
    ("broker", "together"), [("", 1), ('broker = "redis://localhost:1/0"\n', 2)]
)
def test_jobs_on_a_broker_run_side_by_side_those_on_this_machine_in_turn(
    night: Night, jobs: Jobs, broker: str, together: int
) -> None:
    for name in ("one", "two"):
        write(night, f"{NIGHTLY.replace('out/', f'{name}/{name}-')}{broker}", name)
    scheduler = night.scheduler()
    night.look(scheduler)
    night.now = at("2026-01-02T02:00")
    jobs.hold.clear()
    scheduler.look()
    assert len(scheduler.runner.running()) == together
    jobs.hold.set()
    night.look(scheduler)
    assert sorted(jobs.ran) == ["one-2026-01-02", "two-2026-01-02"]


def test_a_bucket_of_schedules_is_run_from_anywhere(store_uri: str, jobs: Jobs) -> None:
    from pipeline.store.directory import Directory

    folder = Directory(f"{store_uri}/schedules")
    folder.put("nightly.toml", NIGHTLY.encode())
    folder.put("notes.txt", b"not a schedule")
    for moment in map(at, ("2026-01-01T12:00", "2026-01-02T12:00")):
        for _ in range(2):
            scheduler = Scheduler(folder.uri, 30, clock=lambda moment=moment: moment, start=jobs)
            scheduler.look()
            scheduler.runner.join()
    assert jobs.ran == ["2026-01-02"]
    assert [item.name for item in folder.list("out/_slots/", recursive=True)] != []


def test_a_directory_that_is_not_there_is_refused(bei: Bei, tmp_path: Path) -> None:
    for words in (("list",), ("run",)):
        refused = bei("schedule", *words, tmp_path / "no-such")
        assert refused.code == 1
        assert "no-such" in refused.screen[0]
