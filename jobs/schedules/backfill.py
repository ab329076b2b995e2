"""`bei-jobs backfill`: one run for each slot of a range of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import MINYEAR, UTC, date, datetime, time
from typing import Any

from jobs.schedules.cron import Cron
from jobs.schedules.run_slot import SlotRunner
from jobs.schedules.schedule import Schedule
from jobs.schedules.slots import Slots
from jobs.summary import EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED
from pipeline.errors import UsageError

# How often slots that other processes run are looked at.
_LOOK_SECONDS = 1.0
#: `--from last`: the last slot alone.
LAST = "last"


def slots_of(cron: Cron, start: str, end: str | None, now: datetime) -> list[datetime]:
    """The slots from `start` to `end`, both included, ascending.

    Args:
        cron: when they are due.
        start: a day, a time in the zone of the cron or with an offset, or "last".
        end: likewise; a day includes all of it. None is now.
        now: later slots have not come.

    Raises:
        UsageError: one is not a time, or there is no slot between them.
    """
    last = now if end is None else min(now, _moment("--to", end, cron, time.max))
    if start == LAST:
        newest = cron.newest(last)
        slots = [] if newest is None else [newest]
    else:
        first = _moment("--from", start, cron, time.min)
        slots = cron.between(first - first.resolution, last)
    if not slots:
        raise UsageError(
            f"{cron.expression!r} has no slot from {start} to {end or 'now'} that has come",
            hint="slots in the future run when a schedule finds them due",
        )
    return slots


def _moment(option: str, text: str, cron: Cron, of_day: time) -> datetime:
    try:
        if len(text) == len("2026-11-28"):
            moment = datetime.combine(date.fromisoformat(text), of_day)
        else:
            moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=cron.zone)).astimezone(UTC)
        if moment.year == MINYEAR:
            raise ValueError("nothing is before it")
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {text!r} is not a time", hint="such as 2026-11-28 or 2026-11-28T02:00"
        ) from error
    return moment


def backfill(
    schedule: Schedule,
    slots: Sequence[datetime],
    parallel: int,
    runner: SlotRunner,
    expiry: float,
) -> list[dict[str, Any]]:
    """Run the slots that are not done, and wait for those that other processes run.

    A slot that failed before is tried once more. Ends early when the runner is told to stop.

    Args:
        schedule: whose slots.
        slots: ascending.
        parallel: so many at the same time.
        runner: of this process.
        expiry: seconds until the claim of a process that died expires.

    Returns:
        The record of each slot, with its `state`; `missing` where it has none.

    Raises:
        StorageError: the store of the records fails.
    """
    records = Slots(schedule, expiry)
    begun: set[datetime] = set()
    while not runner.stopping:
        runner.changed.clear()
        attempts = records.attempts(slots[0] - slots[0].resolution)
        done = {slot for slot, attempt in attempts.items() if attempt.state == "done"}
        waiting = [slot for slot in slots if slot not in done | begun]
        if not waiting and not runner.running():
            break
        for slot in waiting:
            before = attempts.get(slot)
            if len(runner.running()) >= parallel:
                break
            if records.is_free(before):
                output = schedule.job_of(slot)["output"]
                if (claim := records.claim(slot, before, output)) is not None:
                    begun.add(slot)
                    runner.run(schedule, slot, claim)
        runner.changed.wait(_LOOK_SECONDS)
    runner.join()
    attempts = records.attempts(slots[0] - slots[0].resolution)
    return [records.report(slot, attempts.get(slot)) for slot in slots]


def exit_code(records: Sequence[Mapping[str, Any]]) -> int:
    """1 where a slot is not done, 3 where one has quarantined rows, 0 otherwise."""
    if any(record["state"] != "done" for record in records):
        return EXIT_FAILED
    codes = {record.get("exit_code") for record in records}
    return EXIT_QUARANTINED if EXIT_QUARANTINED in codes else EXIT_DONE
