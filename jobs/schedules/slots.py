"""What the store knows about a schedule's slots: who runs one, and how each ended.

    <slot>-<attempt>-running.json   the claim; create-only, so one process has an attempt. Its owner
                                    writes it again while it works: it expires when that stops
    <slot>-<attempt>-<state>.json   how the attempt ended: done, failed or interrupted
    since-<cron>.json               when a schedule with this cron was first seen; create-only

A slot with an attempt that is done is never claimed again. The names say it all, so one listing
gives the state of every slot. No clock of two machines is compared: a claim has expired when this
process has not seen it change for long enough.

A schedule may name a stores file of its own: its records are read and written with that one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from jobs.placeholders import SLOT_NAME
from jobs.schedules.cron import Cron
from jobs.schedules.schedule import Schedule
from pipeline.errors import NotFound, StorageError
from pipeline.spec import digest
from pipeline.store.directory import Directory
from pipeline.store.sections import using
from pipeline.store.uris import redact

logger = logging.getLogger(__name__)

SlotState = Literal["running", "done", "failed", "interrupted"]

_NAME = re.compile(r"(\d{8}T\d{4}Z)-(\d{1,9})-(running|done|failed|interrupted)\.json")
# From the same for all of a slot: the last name that begins with it sorts before this.
_AFTER = "~"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt of a slot that counts: one that is done, or else the last one."""

    slot: datetime  # UTC
    number: int
    state: str  # a SlotState
    name: str  # of the file that says so


class Slots:
    """The records of one schedule.

    Args:
        schedule: whose slots.
        expiry: seconds without a sign of life after which a claim has expired.
        monotonic: seconds that pass.

    Methods raise StorageError when the store fails, or a record that they need is damaged.
    """

    def __init__(
        self,
        schedule: Schedule,
        expiry: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = schedule
        self._expiry = expiry
        self._monotonic = monotonic
        self._directory, self._prefix = schedule.home
        self._seen: dict[str, tuple[str, float]] = {}  # claim → its version, and since when
        self._named: set[str] = set()  # objects that were skipped

    def since(self, cron: Cron, now: datetime) -> datetime:
        """When a schedule with this cron was first seen: now, if it never was."""
        name = f"{self._prefix}since-{digest(cron.expression, cron.timezone)[:8]}.json"
        with self._opened() as directory:
            directory.create(name, _json({"cron": cron.expression, "since": iso(now)}))
            data = directory.read(name)
        try:
            since = datetime.fromisoformat(_record(data)["since"])
            if since.tzinfo is None:
                raise ValueError(f"{since} has no offset")
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{redact(self._directory.uri_of(name))} is damaged: it should say since when the "
                "schedule is known",
                hint="restore it from a copy, or delete it: the schedule then begins with its next "
                "slot",
            ) from error
        return since

    def attempts(self, after: datetime | None = None) -> dict[datetime, Attempt]:
        """The attempt that counts of each slot that was begun, those after a moment only."""
        start = "" if after is None else f"{self._prefix}{after.strftime(SLOT_NAME)}{_AFTER}"
        found: dict[datetime, Attempt] = {}
        seen, self._seen = self._seen, {}
        with self._opened() as directory:
            infos = list(directory.list(self._prefix, after=start))
        for info in infos:
            if (attempt := self._attempt(info.name)) is None:
                continue
            if attempt.state == "running":
                version, since = seen.get(info.name, ("", 0.0))
                same = version == info.version
                self._seen[info.name] = (info.version, since if same else self._monotonic())
            before = found.get(attempt.slot)
            if before is None or _rank(attempt) > _rank(before):
                found[attempt.slot] = attempt
        return found

    def _attempt(self, name: str) -> Attempt | None:
        """The attempt that an object tells of; None for any other object."""
        if not (match := _NAME.fullmatch(name.removeprefix(self._prefix))):
            return None
        try:
            slot = datetime.strptime(match[1], SLOT_NAME).replace(tzinfo=UTC)
        except ValueError:
            if name not in self._named:
                uri = redact(self._directory.uri_of(name))
                logger.warning("%s: %s is not a time, so it is skipped", uri, match[1])
            self._named.add(name)
            return None
        return Attempt(slot, int(match[2]), match[3], name)

    def is_free(self, attempt: Attempt | None) -> bool:
        """Whether a slot that was not finished may be claimed.

        It is not while another process works on it; so a claim must have been seen in `attempts`
        for as long as it takes to expire.
        """
        if attempt is None or attempt.state != "running":
            return True
        _, since = self._seen[attempt.name]
        return self._monotonic() - since >= self._expiry

    def claim(self, slot: datetime, before: Attempt | None, output: str) -> Claim | None:
        """Claim the next attempt of a slot; None if another process was faster.

        Args:
            slot: free.
            before: its attempt so far.
            output: of this slot.
        """
        number = 1 if before is None else before.number + 1
        record = {
            "schedule": self._schedule.name,
            "slot": iso(slot),
            "attempt": number,
            "output": output,
            "owner": f"{socket.gethostname()}:{os.getpid()}",
            "claim": uuid.uuid4().hex,  # no two claims are equal bytes
            "started": iso(datetime.now(UTC)),
        }
        claim = Claim(self, f"{self._prefix}{slot.strftime(SLOT_NAME)}-{number}", record)
        with self._opened() as directory:
            created = directory.create(claim.name("running"), claim.sign_of_life())
        return claim if created else None

    def report(self, slot: datetime, attempt: Attempt | None) -> dict[str, Any]:
        """What the attempt of a slot recorded, and its `state`.

        `missing` without an attempt; a claim that fell silent is `interrupted`. Slot, attempt and
        state stand in the name: of a damaged record they are known, and `error` says so.
        """
        if attempt is None:
            return {"slot": iso(slot), "state": "missing"}
        record: dict[str, Any] = {}
        with self._opened() as directory, suppress(NotFound):
            data = directory.read(attempt.name)
            try:
                record = _record(data)
            except (TypeError, ValueError):
                record = {"error": f"{redact(directory.uri_of(attempt.name))} is damaged"}
        state = attempt.state
        if state == "running":
            with suppress(KeyError, TypeError, ValueError):
                silent = datetime.now(UTC) - datetime.fromisoformat(record["renewed"])
                state = "interrupted" if silent.total_seconds() > self._expiry else state
        return {**record, "slot": iso(slot), "attempt": attempt.number, "state": state}

    def write(self, name: str, data: bytes) -> None:
        """Write a record of an attempt that this process owns."""
        with self._opened() as directory:
            directory.put(name, data)

    @contextmanager
    def _opened(self) -> Iterator[Directory]:
        """Where the records are; inside, this thread opens stores as the schedule says."""
        with using(self._schedule.stores):
            yield self._directory


class Claim:
    """An attempt of a slot that this process owns."""

    def __init__(self, slots: Slots, stem: str, record: Mapping[str, Any]) -> None:
        self._slots = slots
        self._stem = stem
        self._record = record

    def name(self, state: SlotState) -> str:
        return f"{self._stem}-{state}.json"

    def sign_of_life(self) -> bytes:
        return _json({**self._record, "renewed": iso(datetime.now(UTC), "microseconds")})

    def renew(self) -> None:
        """Say that the work goes on."""
        self._slots.write(self.name("running"), self.sign_of_life())

    def end(self, state: SlotState, result: Mapping[str, Any]) -> dict[str, Any]:
        """Record how the attempt ended, and return the record.

        Args:
            state: done, failed or interrupted.
            result: exit_code, job, …
        """
        record = {**self._record, "finished": iso(datetime.now(UTC)), **result}
        self._slots.write(self.name(state), _json(record))
        return {**record, "state": state}


def unfinished(attempt: Attempt | None) -> bool:
    """Whether a slot has neither succeeded nor failed."""
    return attempt is None or attempt.state in ("running", "interrupted")


def _rank(attempt: Attempt) -> tuple[bool, int, bool]:
    return attempt.state == "done", attempt.number, attempt.state != "running"


def iso(moment: datetime, timespec: str = "seconds") -> str:
    """A moment in UTC as it is written."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _record(data: bytes) -> dict[str, Any]:
    """The texts, numbers and truth values of a record.

    Raises:
        TypeError, ValueError: it is something else.
    """
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise TypeError("it is not an object")
    if not all(isinstance(value, str | int | float | None) for value in record.values()):
        raise TypeError("it has values of values")
    return record


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()
