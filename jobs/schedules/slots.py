"""What the store knows about a schedule's slots: who runs one, and how each ended.

    <slot>-<attempt>-running.json   the claim; create-only, so one process has an attempt. Its owner
                                    writes it again while it works: it expires when that stops
    <slot>-<attempt>-<state>.json   how the attempt ended: done, failed or interrupted
    since-<cron>.json               when a schedule with this cron was first seen; create-only

A slot with an attempt that is done is never claimed again. The names say it all, so one listing
gives the state of every slot. No clock of two machines is compared: a claim has expired when this
process has not seen it change for long enough.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from jobs.placeholders import SLOT_NAME
from jobs.schedules.cron import Cron
from jobs.schedules.schedule import Schedule
from pipeline.errors import NotFound
from pipeline.spec import digest

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

    Methods raise StorageError when the store fails.
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

    def since(self, cron: Cron, now: datetime) -> datetime:
        """When a schedule with this cron was first seen: now, if it never was."""
        name = f"{self._prefix}since-{digest(cron.expression, cron.timezone)[:8]}.json"
        self._directory.create(name, _json({"cron": cron.expression, "since": iso(now)}))
        return datetime.fromisoformat(json.loads(self._directory.read(name))["since"])

    def attempts(self, after: datetime | None = None) -> dict[datetime, Attempt]:
        """The attempt that counts of each slot that was begun, those after a moment only."""
        start = "" if after is None else f"{self._prefix}{after.strftime(SLOT_NAME)}{_AFTER}"
        found: dict[datetime, Attempt] = {}
        seen, self._seen = self._seen, {}
        for info in self._directory.list(self._prefix, after=start):
            if not (match := _NAME.fullmatch(info.name.removeprefix(self._prefix))):
                continue
            slot = datetime.strptime(match[1], SLOT_NAME).replace(tzinfo=UTC)
            attempt = Attempt(slot, int(match[2]), match[3], info.name)
            if attempt.state == "running":
                version, since = seen.get(info.name, ("", 0.0))
                same = version == info.version
                self._seen[info.name] = (info.version, since if same else self._monotonic())
            if slot not in found or _rank(attempt) > _rank(found[slot]):
                found[slot] = attempt
        return found

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
        return (
            claim if self._directory.create(claim.name("running"), claim.sign_of_life()) else None
        )

    def report(self, slot: datetime, attempt: Attempt | None) -> dict[str, Any]:
        """What the attempt of a slot recorded, and its `state`.

        `missing` without an attempt; a claim that fell silent is `interrupted`.
        """
        if attempt is None:
            return {"slot": iso(slot), "state": "missing"}
        try:
            record: dict[str, Any] = json.loads(self._directory.read(attempt.name))
        except (NotFound, ValueError):
            record = {"slot": iso(slot), "attempt": attempt.number}
        state = attempt.state
        if state == "running":
            with suppress(KeyError, TypeError, ValueError):
                silent = datetime.now(UTC) - datetime.fromisoformat(record["renewed"])
                state = "interrupted" if silent.total_seconds() > self._expiry else state
        return {**record, "state": state}

    def write(self, name: str, data: bytes) -> None:
        """Write a record of an attempt that this process owns."""
        self._directory.put(name, data)


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


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()
