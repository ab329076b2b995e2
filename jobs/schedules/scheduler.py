"""`bei-jobs schedule run`: a loop that keeps nothing. Any number of processes may run it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import FrameType
from typing import TypeVar

from jobs.schedules.run_slot import SlotRunner, Start
from jobs.schedules.schedule import CatchUp, Listing, Schedule, read_schedules
from jobs.schedules.slots import Attempt, Slots, unfinished
from pipeline.errors import BeiJobsError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], datetime]

# How often files, and slots that others run, are looked at.
_LOOK_SECONDS = 15.0
# A call of a store is tried for a minute: a claim lives longer than one that was not renewed once.
EXPIRY_LEASES = 4
_MINUTE = timedelta(minutes=1)


def due_slots(
    slots: Sequence[datetime], attempts: Mapping[datetime, Attempt], catch_up: CatchUp
) -> list[datetime]:
    """The slots that are to be run, ascending: one that was begun is never given up.

    Args:
        slots: that have come, ascending.
        attempts: of those that were begun.
        catch_up: "last" leaves out missed slots except the last one.
    """
    return [
        slot
        for slot in slots
        if unfinished(attempts.get(slot))
        and (catch_up == "all" or slot in attempts or slot == slots[-1])
    ]


class Scheduler:
    """Runs the schedules of a directory, the slots of each in order.

    Jobs on a broker run side by side; of those on this machine's devices, one at a time.

    Args:
        directory: path or URI.
        lease_seconds: how often a claim is renewed.
        clock: the time, with a time zone.
        start: starts a job; None for `submit` itself.
    """

    def __init__(
        self,
        directory: str,
        lease_seconds: float,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        start: Start | None = None,
    ) -> None:
        self.runner = SlotRunner(lease_seconds, start)
        self._directory = directory
        self._expiry = EXPIRY_LEASES * lease_seconds
        self._look_seconds = min(_LOOK_SECONDS, lease_seconds)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._told: set[str] = set()
        self._faults: set[str] = set()  # that were logged

    def run(self) -> None:
        """Run until `request_stop` of the runner is called."""
        while not self.runner.stopping:
            self.runner.changed.clear()
            self.look()
            to_next_minute = 60 - self._clock().second  # no slot comes before
            self.runner.changed.wait(min(self._look_seconds, to_next_minute))
        self.runner.join()

    def look(self) -> None:
        """Look once at the files and the slots, and start what is due."""
        try:
            listing = read_schedules(self._directory)
        except BeiJobsError as error:
            logger.error("%s (%s)", error, error.hint)
            return
        self._tell(listing)
        self._remember(listing.schedules)
        busy = {schedule.where for schedule in self.runner.running()}
        waiting = []
        for where, known in self._known.items():
            if where not in busy and (due := self._guarded(known, partial(self._next, known))):
                waiting.append(due)
        for due in sorted(waiting, key=lambda each: each.slot):
            if due.known.schedule.broker or not any(
                r.broker is None for r in self.runner.running()
            ):
                self._guarded(due.known, partial(self._start, due))

    def _remember(self, schedules: Sequence[Schedule]) -> None:
        """Keep what is known of a schedule as long as its file and its stores stay as they are."""
        before, self._known = self._known, {}
        for schedule in schedules:
            known = before.get(schedule.where)
            if known is None or not _same(known.schedule, schedule):
                known = _Known(schedule, Slots(schedule, self._expiry))
            self._known[schedule.where] = known

    def _next(self, known: _Known) -> _Due | None:
        """The next slot to run; None while there is none, or another process runs it."""
        now = self._clock()
        cron = known.schedule.cron
        if known.settled is None:
            known.settled = known.slots.since(cron, now)
        if not (come := cron.between(known.settled, now)):
            return None
        attempts = known.slots.attempts(known.settled)
        due = due_slots(come, attempts, known.schedule.catch_up)
        known.settled = due[0] - _MINUTE if due else come[-1]
        if not due or not known.slots.is_free(attempts.get(due[0])):
            return None
        return _Due(known, due[0], attempts.get(due[0]))

    def _start(self, due: _Due) -> None:
        schedule = due.known.schedule
        output = schedule.job_of(due.slot)["output"]
        claim = due.known.slots.claim(due.slot, due.before, output)
        if claim is not None:
            self.runner.run(schedule, due.slot, claim)

    def _guarded(self, known: _Known, action: Callable[[], T]) -> T | None:
        """Do something for one schedule; an error is logged, and stops no other schedule."""
        try:
            return action()
        except BeiJobsError as error:
            logger.error("%s: %s (%s)", known.schedule.name, error, error.hint)
        except Exception as error:  # of this program: its place is logged once, not at each look
            name = known.schedule.name
            if (fault := f"{name}: {type(error).__name__}: {error}") not in self._faults:
                logger.exception("%s: an error of bei-jobs itself; its slots wait", name)
            self._faults.add(fault)
        return None

    def _tell(self, listing: Listing) -> None:
        """Log what is wrong with files, each time that it changes."""
        lines = {f"{e} ({e.hint})": logging.ERROR for e in listing.refused.values()}
        lines |= {f"{name} has no cron: it is not run": logging.INFO for name in listing.plain}
        lines |= {f"{s.name}: {s.cron.expression}": logging.INFO for s in listing.schedules}
        for line, level in lines.items():
            if line not in self._told:
                logger.log(level, "%s", line)
        self._told = set(lines)


def _same(before: Schedule, now: Schedule) -> bool:
    return (before.text, before.stores) == (now.text, now.stores)


@dataclass(slots=True)
class _Known:
    """A schedule, its records, and the moment up to which nothing is left to run."""

    schedule: Schedule
    slots: Slots
    settled: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Due:
    """A slot to run, and its attempt so far."""

    known: _Known
    slot: datetime
    before: Attempt | None


@contextmanager
def stopped_by_signals(runner: SlotRunner) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM stop the jobs between two batches; a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        runner.request_stop()

    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
