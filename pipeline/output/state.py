"""The state of a run that has not ended: does anybody work on it?

    _bei/runs/<n>/queued.json     the run was sent to a broker's queue; create-only
    _bei/runs/<n>/checked.json    when a submit last found the finished run complete and unchanged

A run in the foreground is known by its leases. What becomes of a run on a queue, only its broker
knows: from the store alone it counts as running while something of it was written lately.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import NotFound, StorageError
from pipeline.output.leases import LIVE_SECONDS, read_leases
from pipeline.output.open_shards import OPEN
from pipeline.output.output import Output
from pipeline.output.process import user_and_host
from pipeline.output.run import Run, now
from pipeline.store.directory import ObjectInfo

_QUEUED, _CHECKED = "queued.json", "checked.json"
# Workers save pieces every 20 seconds, but a long text or a cold model may take minutes.
_LATELY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class OpenState:
    """The state of a run that has not ended."""

    state: str  # queued, running or interrupted
    on_queue: bool = False  # a broker knows better


def mark_queued(output: Output, run: Run) -> None:
    """Note in the store that a run is on a queue."""
    value = {"at": now(), "by": user_and_host()}
    output.directory.create(run.path(_QUEUED), json.dumps(value, indent=1).encode())


def mark_checked(output: Output, run: Run) -> None:
    """Note that a submit found a finished run complete, and its inputs unchanged."""
    with suppress(StorageError):  # whoever may only read the output learns as much
        value = {"at": now(), "by": user_and_host()}
        output.directory.put(run.path(_CHECKED), json.dumps(value, indent=1).encode())


def read_checked(output: Output, run: Run) -> str:
    """When a submit last found a finished run complete, ISO 8601; "" if none did."""
    try:
        return str(output.read_json(run.path(_CHECKED)).get("at", ""))
    except NotFound:
        return ""


def open_state(output: Output, run: Run, *, computed: int, written: float) -> OpenState:
    """The state of a run that has not ended, from the store alone.

    Args:
        output: of the run.
        run: not ended.
        computed: rows that it has committed.
        written: when its newest part was, in seconds since the epoch; 0 if it has none.
    """
    leases = read_leases(output, run)
    live = [lease for lease in leases if lease.live]
    if any(lease.computing for lease in live):
        return OpenState("running")
    if output.directory.exists(run.path(_QUEUED)):
        newest = max([written, *(item.modified for item in _open_work(output, run))])
        return OpenState("running" if _lately(newest, _LATELY_SECONDS) else "queued", True)
    if live:
        return OpenState("queued")
    if leases:
        return OpenState("interrupted")
    if run.record is None:  # an earlier version left no trace of who runs it
        return OpenState("running" if computed else "queued", True)
    return OpenState("queued" if _just_planned(output, run) else "interrupted")


def _open_work(output: Output, run: Run) -> Iterator[ObjectInfo]:
    """What workers write of shards that are not done."""
    yield from output.directory.list(run.path("attempts/"))
    yield from output.directory.list(OPEN, recursive=True)


def _just_planned(output: Output, run: Run) -> bool:
    """Whether the process that planned it may not have come to its lease or the queue yet."""
    try:
        return _lately(output.directory.info(run.path("run.json")).modified, LIVE_SECONDS)
    except NotFound:
        return False


def _lately(modified: float, seconds: float) -> bool:
    return time.time() - modified < seconds
