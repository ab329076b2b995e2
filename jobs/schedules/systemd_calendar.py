"""Cron expressions as systemd's calendar events (man systemd.time)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from cronsim import CronSim

from jobs.schedules.cron import Cron

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_DAYS_OF_MONTH = range(1, 32)


def calendars(cron: Cron) -> list[str]:
    """The events of a cron expression of numbers, names, lists, ranges and steps; one or two.

    Two where cron restricts both the day of the month and the weekday: there one of them is enough.
    """
    fields = CronSim(cron.expression, datetime.now(UTC))
    time = f"{_list(fields.hours, range(24))}:{_list(fields.minutes, range(60))}:00"
    month = _list(fields.months, range(1, 13))
    day = _list(fields.days, _DAYS_OF_MONTH)
    weekdays = {number % len(_DAYS) for number in fields.weekdays if isinstance(number, int)}
    names = "" if len(weekdays) == len(_DAYS) else ",".join(_DAYS[n] for n in sorted(weekdays))

    def event(names: str, day: str) -> str:
        return f"{names} *-{month}-{day} {time} {cron.timezone}".strip()

    if fields.day_and or not names or day == "*":
        return [event(names, day)]
    return [event("", day), event(names, "*")]


def _list(values: Collection[object], every: range) -> str:
    numbers = sorted(int(str(value)) for value in values)
    return "*" if numbers == list(every) else ",".join(f"{number:02}" for number in numbers)
