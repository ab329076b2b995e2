"""The slots of a schedule: the moments at which its cron expression is due in its time zone.

cronsim follows Debian's cron where clocks change: a time that is skipped runs when the clock has
jumped, a time that comes twice runs once, and `*` in minutes or hours follows real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pipeline.errors import UsageError

_FIELDS = 5
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Cron:
    """A cron expression in a time zone. Slots are moments in UTC, to the minute.

    Raises:
        UsageError: the expression or the time zone is not valid, or never due.
    """

    expression: str  # five fields
    timezone: str  # of the IANA database, such as Europe/Berlin

    def __post_init__(self) -> None:
        _ = self.zone
        hint = 'give minute, hour, day, month and weekday, such as "0 2 * * *" for 02:00'
        if len(self.expression.split()) != _FIELDS:
            raise UsageError(f"cron {self.expression!r} has not {_FIELDS} fields", hint=hint)
        try:
            due = next(CronSim(self.expression, datetime.now(UTC)), None)
        except CronSimError as error:
            raise UsageError(f"cron {self.expression!r}: {error}", hint=hint) from error
        if due is None:
            raise UsageError(f"cron {self.expression!r} is never due", hint=hint)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone's rules."""
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageError(
                f"timezone {self.timezone!r} is not known to this machine",
                hint="give a name of the IANA database, such as UTC or Europe/Berlin",
            ) from error

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The slots after a moment, ascending, each once."""
        last = moment
        for due in CronSim(self.expression, moment.astimezone(self.zone)):
            slot = due.astimezone(UTC)
            if slot > last:  # where clocks change, cronsim names one twice, or one that is past
                last = slot
                yield slot

    def between(self, start: datetime, end: datetime) -> list[datetime]:
        """The slots after `start`, up to and including `end`."""
        return list(takewhile(lambda slot: slot <= end, self.after(start)))

    def newest(self, moment: datetime) -> datetime | None:
        """The last slot up to and including a moment; None if there was none."""
        before = CronSim(self.expression, moment.astimezone(self.zone), reverse=True)
        earlier = next(before, None)
        start = moment - _MINUTE if earlier is None else earlier.astimezone(UTC)
        now = self.between(start, moment)
        if now:
            return now[-1]
        return None if earlier is None else start
