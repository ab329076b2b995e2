"""Which processes run a run in the foreground right now.

    _bei/runs/<n>/running/<8 hex>.json    one process: who, whether it computes, how far it has
                                          come, and when it ended

A process renews its lease while it lives, and deletes it when the run is done. One that was told to
stop leaves it with the time, one that was killed leaves it as it is: so a lease that does not live
means an interrupted run. A lease lives as long as its process, where that can be looked at; seen
from another machine, until it has not been renewed for a while. Leases decide nothing: they are
what `status` shows.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import NotFound, StorageError
from pipeline.output.output import Output
from pipeline.output.process import ProcessId
from pipeline.output.run import Run, now, seconds_since
from pipeline.store.directory import ObjectInfo

logger = logging.getLogger(__name__)

RENEW_SECONDS = 20.0
# On a local disk, where a renewal costs a millisecond and somebody may watch.
LOCAL_RENEW_SECONDS = 2.0
# Three renewals, and a margin for clocks: the store's says when, the reader's how long ago.
LIVE_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class Lease:
    """What a lease says."""

    live: bool
    computing: bool  # False: the process waits for another one on this output
    host: str = ""
    pid: int = 0
    progress: Mapping[str, object] = field(default_factory=dict)  # as the process wrote it


class RunLease:
    """The lease of this process on a run. A store that fails costs the lease, not the run."""

    def __init__(self, output: Output, run: Run) -> None:
        self._directory = output.directory
        self._name = run.path(f"running/{uuid.uuid4().hex[:8]}.json")
        self._process = ProcessId.current()

    def write(
        self,
        *,
        computing: bool,
        ended: bool = False,
        progress: Mapping[str, object] | None = None,
    ) -> None:
        """Take, renew or end the lease.

        Args:
            computing: False while the process waits for another one.
            ended: the process ends.
            progress: how far it has come, as JSON.
        """
        value = {
            "process": self._process.to_json(),
            "computing": computing,
            "renewed": now(),
            "ended": now() if ended else "",
            **({"progress": progress} if progress else {}),
        }
        with suppress(StorageError):
            self._directory.put(self._name, json.dumps(value, indent=1).encode())

    def delete(self) -> None:
        """The run is done, and needs no lease."""
        with suppress(StorageError):
            self._directory.delete(self._name)


def read_leases(output: Output, run: Run) -> list[Lease]:
    """The leases of a run. One listing, and one read for each."""
    return [lease for _, lease in _read(output, run)]


def sweep_leases(output: Output, run: Run) -> None:
    """Delete the leases of a run that do not live."""
    with suppress(StorageError):
        for name, lease in _read(output, run):
            if not lease.live:
                output.directory.delete(name)


def _read(output: Output, run: Run) -> list[tuple[str, Lease]]:
    leases = []
    for item in output.directory.list(run.path("running/")):
        try:
            leases.append((item.name, _lease(item, output.directory.read(item.name))))
        except NotFound:  # its process ended since it was listed
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s/%s is not a lease: ignored", output.uri, item.name)
    return leases


def _lease(item: ObjectInfo, data: bytes) -> Lease:
    value = json.loads(data)
    process, progress = value["process"], value.get("progress")
    return Lease(
        _lives(item, value),
        bool(value["computing"]),
        str(process["host"]),
        int(process["pid"]),
        progress if isinstance(progress, dict) else {},
    )


def _lives(item: ObjectInfo, value: dict[str, Any]) -> bool:
    if value["ended"]:
        return False
    running = ProcessId.from_json(value["process"]).is_running()
    if running is not None:
        return running
    age = time.time() - item.modified if item.modified else seconds_since(str(value["renewed"]))
    return age < LIVE_SECONDS
