"""When a schedule is due, and what `{slot}` becomes: time zones and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobs.placeholders import check_placeholders, fill
from jobs.schedules.cron import Cron
from pipeline.errors import UsageError

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(expression: str, zone: str, start: str, end: str) -> list[str]:
    return [f"{slot:%m-%d %H:%M}" for slot in Cron(expression, zone).between(at(start), at(end))]


def test_slots_are_after_the_start_and_up_to_the_end() -> None:
    assert slots("0 2 * * *", "UTC", "2026-01-01T02:00", "2026-01-03T02:00") == [
        "01-02 02:00", "01-03 02:00",
    ]  # fmt: skip
    assert slots("0 2 * * *", "UTC", "2026-01-01T02:00", "2026-01-02T01:59") == []


def test_a_slot_is_in_the_time_zone_of_the_schedule() -> None:
    assert slots("0 2 * * *", "Asia/Tokyo", "2026-01-01", "2026-01-02") == ["01-01 17:00"]


def test_a_night_whose_time_is_skipped_runs_once_when_the_clock_has_jumped() -> None:
    found = slots("30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-30T12:00")
    assert found == ["03-29 01:00", "03-30 00:30"]


def test_a_night_whose_time_comes_twice_runs_once() -> None:
    found = slots("30 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-26T12:00")
    assert found == ["10-25 00:30", "10-26 01:30"]


def test_every_half_hour_follows_real_time_when_clocks_change() -> None:
    found = slots("*/30 * * * *", BERLIN, "2026-10-24T23:45", "2026-10-25T02:00")
    assert found == [f"10-25 0{hour}:{minute}" for hour in "01" for minute in ("00", "30")] + [
        "10-25 02:00"
    ]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * *", "15 */2 * * *"])
def test_a_search_that_begins_during_a_change_of_the_clock_misses_nothing(
    day: str, expression: str
) -> None:
    cron = Cron(expression, BERLIN)
    start, end = at(f"{day}T00:00") - timedelta(days=2), at(f"{day}T12:00")
    expected = cron.between(start, end)
    for minutes in range(0, 12 * 60, 10):
        moment = at(f"{day}T00:00") + timedelta(minutes=minutes)
        assert cron.between(moment, end) == [slot for slot in expected if slot > moment]
        assert cron.newest(moment) == max(slot for slot in expected if slot <= moment)


def test_the_newest_slot_may_be_this_minute() -> None:
    cron = Cron("0 2 * * *", "UTC")
    assert cron.newest(at("2026-01-02T02:00")) == at("2026-01-02T02:00")
    assert cron.newest(at("2026-01-02T02:00:30")) == at("2026-01-02T02:00")
    assert cron.newest(at("2026-01-02T01:59:59")) == at("2026-01-01T02:00")


@pytest.mark.parametrize(
    ("expression", "zone", "named"),
    [
        ("0 2 * *", "UTC", "5 fields"),
        ("0 0 2 * * *", "UTC", "5 fields"),
        ("0 25 * * *", "UTC", "hour"),
        ("0 0 30 2 *", "UTC", "day-of-month"),
        ("@daily", "UTC", "5 fields"),
        ("0 2 * * *", "Europe/Berlim", "Europe/Berlim"),
        ("0 2 * * *", "../../etc/passwd", "timezone"),
    ],
)
def test_what_is_no_time_is_refused(expression: str, zone: str, named: str) -> None:
    with pytest.raises(UsageError, match=named) as refused:
        Cron(expression, zone)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("date={slot:%Y-%m-%d}/", "date=2026-11-28/"),
        ("{slot:%Y/%m/%d}", "2026/11/28"),
        ("{slot}", "20261128T0100Z"),
        ("{slot-1d:%F}", "2026-11-27"),
        ("{slot-2h:%F %H}", "2026-11-28 00"),
        ("{slot+1w:%d}-{slot-28d:%m}", "05-10"),
        ("{text} {slots} {}", "{text} {slots} {}"),
    ],
)
def test_a_placeholder_is_the_time_of_the_slot_in_its_zone(text: str, filled: str) -> None:
    slot = at("2026-11-28T01:00").astimezone(Cron("0 2 * * *", BERLIN).zone)
    check_placeholders(text)
    assert fill({"a": text, "b": [text], "c": 1}, slot) == {"a": filled, "b": [filled], "c": 1}


@pytest.mark.parametrize(
    "text", ["{slot:%Q}", "{slot-1:%F}", "{slot-1d}{slot", "{slot:}", "{slot.year}"]
)
def test_a_placeholder_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="slot") as refused:
        check_placeholders(text)
    assert "{slot:%Y-%m-%d}" in refused.value.hint
