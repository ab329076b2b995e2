"""`{slot}` in the values of a job file: the time of the run that a schedule or a backfill starts.

{slot}              20261128T0200Z, in UTC
{slot:%Y-%m-%d}     in the time zone of the schedule, with the directives of strftime
{slot-1d:%Y-%m-%d}  the day before; h, d and w are hours, days and weeks
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.errors import UsageError

#: The name of a slot, in UTC: in names of files, and what `{slot}` becomes.
SLOT_NAME = "%Y%m%dT%H%MZ"

_BEGIN = re.compile(r"\{slot(?![A-Za-z_])")
_PLACEHOLDER = re.compile(
    r"\{slot(?:(?P<count>[+-]\d{1,4})(?P<unit>[hdw]))?(?::(?P<format>[^{}]+))?\}"
)
# What every platform's strftime knows; %F is in glibc, macOS and musl.
_DIRECTIVES = frozenset("aAbBdFGHIjmMpSuUVwWyY%")
_DIRECTIVE = re.compile("%(.?)", re.DOTALL)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def has_placeholder(value: Any) -> bool:
    """Whether a text, or one of a list, holds a placeholder."""
    values = value if isinstance(value, list) else [value]
    return any(isinstance(each, str) and _BEGIN.search(each) is not None for each in values)


def check_placeholders(text: str) -> None:
    """Check every placeholder of a text.

    Raises:
        UsageError: one is not of the forms above.
    """
    formats = [match["format"] or "" for match in _PLACEHOLDER.finditer(text)]
    directives = [found for each in formats for found in _DIRECTIVE.finditer(each)]
    wrong = [found[0] for found in directives if found[1] not in _DIRECTIVES]
    if _BEGIN.search(_PLACEHOLDER.sub("", text)) or wrong:
        raise UsageError(
            f"{text!r}: {wrong[0] + ' is' if wrong else 'this is'} no time of a slot",
            hint="write {slot}, {slot:%Y-%m-%d} or, for the day before, {slot-1d:%Y-%m-%d}",
        )


def fill(settings: Mapping[str, Any], slot: datetime) -> dict[str, Any]:
    """The settings with every placeholder replaced.

    Args:
        settings: texts, lists of texts and other values; checked with `check_placeholders`.
        slot: in the time zone of the schedule.
    """

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        return _PLACEHOLDER.sub(_text_of(slot), value) if isinstance(value, str) else value

    return {name: filled(value) for name, value in settings.items()}


def _text_of(slot: datetime) -> Callable[[re.Match[str]], str]:
    def text(match: re.Match[str]) -> str:
        moment = _moved(slot, int(match["count"] or 0), match["unit"] or "d")
        if match["format"] is None:
            return moment.astimezone(UTC).strftime(SLOT_NAME)
        return moment.strftime(match["format"])

    return text


def _moved(slot: datetime, count: int, unit: str) -> datetime:
    """Days and weeks keep the time on the clock, where hours pass one after another."""
    offset = timedelta(**{_UNITS[unit]: count})
    if unit == "h":
        return (slot.astimezone(UTC) + offset).astimezone(slot.tzinfo)
    return slot + offset
