"""`bei-jobs backfill`: which slots, how many at a time, and what is run again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei

from jobs.schedules.backfill import backfill, slots_of
from jobs.schedules.cron import Cron
from jobs.schedules.schedule import Schedule, read_schedule
from jobs.schedules.slots import Claim
from pipeline.errors import UsageError

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2026-01-02", "2026-01-04", "02 03 04"),  # whole days of Berlin
        ("2026-01-02T02:00", "2026-01-03T01:59", "02"),
        ("2026-01-02T01:00:00+00:00", "2026-01-02T01:00Z", "02"),
        ("2026-01-09", None, "09 10"),
        ("2026-01-09", "2027-01-01", "09 10"),  # the others have not come
        ("last", None, "10"),
        ("last", "2026-01-05", "05"),
    ],
)
def test_the_range_holds_both_of_its_ends(start: str, end: str | None, days: str) -> None:
    slots = slots_of(Cron("0 2 * * *", "Europe/Berlin"), start, end, NOW)
    assert [f"{slot:%d %H}" for slot in slots] == [f"{day} 01" for day in days.split()]


@pytest.mark.parametrize(
    ("start", "end", "named"),
    [
        ("yesterday", None, "--from"),
        ("2026-01-01", "2026-13-01", "--to"),
        ("2026-01-04", "2026-01-02", "no slot"),
        ("2027-01-01", None, "no slot"),
    ],
)
def test_a_range_without_slots_is_refused(start: str, end: str | None, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        slots_of(Cron("0 2 * * *", "UTC"), start, end, NOW)


class Jobs:
    """Stands for the processes of `submit`: each has ended with the code of its day."""

    def __init__(self, codes: dict[str, int]) -> None:
        self.codes = codes
        self.ran: list[str] = []

    def __call__(self, job_file: Path, out: Path) -> Any:
        day = job_file.read_text().partition("out/")[2][:10]
        self.ran.append(day)
        code = self.codes.get(day, 0)
        out.write_text(json.dumps({"job": "0123456789ab", "error": "no rows" if code else None}))

        class Job:
            def wait(self, timeout: float | None = None) -> int:
                return code

            def terminate(self) -> None: ...

        return Job()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "daily.toml"
    path.write_text('cron = "0 2 * * *"\ninputs = ["in/{slot:%F}"]\noutput = "out/{slot:%F}"\n')
    return path


def run(bei: Bei, monkeypatch: pytest.MonkeyPatch, jobs: Jobs, *words: object) -> Any:
    monkeypatch.setattr("jobs.schedules.run_slot.start_submit", jobs)
    return bei("backfill", *words)


class Threadless:
    """Stands for a SlotRunner: a slot ends when the backfill waits, one at a time."""

    stopping = False

    def __init__(self) -> None:
        self.changed = self
        self.claims: list[Claim] = []
        self.most = 0

    def run(self, schedule: Schedule, slot: datetime, claim: Claim) -> None:
        self.claims.append(claim)
        self.most = max(self.most, len(self.claims))

    def running(self) -> list[Claim]:
        return self.claims

    def clear(self) -> None: ...

    def join(self) -> None: ...

    def wait(self, timeout: float) -> None:
        self.claims.pop(0).end("done", {"exit_code": 0})


@pytest.mark.parametrize("parallel", [1, 3])
def test_runs_are_bounded_in_parallel(file: Path, parallel: int) -> None:
    schedule = read_schedule(str(file))
    assert schedule is not None
    slots = slots_of(schedule.cron, "2026-01-01", "2026-01-07", NOW)
    runner: Any = Threadless()
    records = backfill(schedule, slots, parallel, runner, 120)
    assert [record["state"] for record in records] == ["done"] * 7
    assert runner.most == parallel


def test_a_table_says_how_each_slot_ended_and_what_failed_is_run_again(
    bei: Bei, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs({"2026-01-02": 3, "2026-01-03": 1})
    words = (file, "--from", "2026-01-01", "--to", "2026-01-04")
    done = run(bei, monkeypatch, jobs, *words, "--parallel", 2)
    assert done.code == 1
    lines = [line.split(maxsplit=5) for line in done.out.splitlines()]
    assert [line[0] for line in lines] == [f"2026-01-0{day}T02:00:00Z" for day in (1, 2, 3, 4)]
    assert [(line[1], line[2]) for line in lines] == [
        ("done", "0"), ("done", "3"), ("failed", "1"), ("done", "0"),
    ]  # fmt: skip
    assert lines[2][-1] == "no rows"
    again = Jobs({})
    done = run(bei, monkeypatch, again, *words, "--json")
    assert again.ran == ["2026-01-03"]  # what had failed, and nothing that was done
    assert done.code == 3
    slot = done.json["slots"][2]
    assert (slot["state"], slot["exit_code"], slot["attempt"]) == ("done", 0, 2)
    assert slot["output"] == str(file.parent / "out/2026-01-03")


def test_one_output_takes_one_run_at_a_time(bei: Bei, file: Path) -> None:
    file.write_text('cron = "0 2 * * *"\ninputs = ["in/{slot:%F}"]\noutput = "out"\n')
    refused = bei("backfill", file, "--from", "2026-01-01", "--parallel", 2)
    assert refused.code == 2
    assert "one output" in refused.screen[0]


def test_a_file_without_a_cron_has_no_slots(bei: Bei, file: Path) -> None:
    file.write_text('inputs = ["in"]\n')
    refused = bei("backfill", file, "--from", "last")
    assert refused.code == 2
    assert "cron" in refused.screen[0]


def test_a_file_that_is_not_there_is_named(bei: Bei, tmp_path: Path) -> None:
    refused = bei("backfill", tmp_path / "no-such.toml", "--from", "last", "--json")
    assert (refused.code, refused.json["type"]) == (1, "NotFound")
    assert "no-such.toml" in refused.screen[0]


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Europe/Berlin", ("--from", "0001-01-01")),
        ("UTC", ("--from", "0001-01-01")),
        ("America/New_York", ("--from", "last", "--to", "9999-12-31")),
    ],
)
def test_a_time_at_the_end_of_the_calendar_is_refused(
    bei: Bei, file: Path, zone: str, words: tuple[str, ...]
) -> None:
    file.write_text(f'{file.read_text()}timezone = "{zone}"\n')
    refused = bei("backfill", file, *words)
    assert refused.code == 2
    assert f"{words[-2]} '{words[-1]}' is not a time" in refused.screen[0]
