"""A worker that cannot run a job steps back from it, with growing pauses, and says why.

A model that is not on this machine, a store that cannot be reached from here, a full disk, a device
that is lost: such errors say nothing about a shard, and count against none. Other workers continue.
The job fails only when every device of every live worker has refused it for longer than its
patience (`Settings.patience_seconds`).

    bei:job:<job>:stepped_back   hash   "<host>:<pid> <device>" → Refusal as JSON
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pipeline.errors import BeiJobsError
from workers.live_counters import Client

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 60.0
_TEXT_MAX_CHARS = 2000
# Refusals of a job that never ended expire in the end.
_FORGET_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device of a worker does not run a job for now."""

    host: str
    pid: int  # of the worker's parent process
    device: str
    reason: str
    hint: str
    seconds: float  # since it first failed without a success in between
    final: bool  # longer than its patience


@dataclass(slots=True)
class _Pause:
    since: float  # by the monotonic clock, as the others
    until: float
    seconds: float  # of the pause


class StepBack:
    """From which jobs one device of this worker has stepped back.

    Args:
        host: of the worker.
        pid: of the worker's parent process.
        device: such as "cpu".
        patience_seconds: after so long a refusal is final.
    """

    def __init__(self, host: str, pid: int, device: str, patience_seconds: float) -> None:
        self._host = host
        self._pid = pid
        self._device = device
        self._patience = patience_seconds
        self._pauses: dict[str, _Pause] = {}

    def remaining(self, job: str) -> float:
        """Seconds until the device tries the job again; 0 if it may."""
        pause = self._pauses.get(job)
        return 0.0 if pause is None else max(0.0, pause.until - time.monotonic())

    def refuse(self, job: str, error: Exception) -> Refusal:
        """Step back from a job after an error that may be this worker's own."""
        moment = time.monotonic()
        pause = self._pauses.get(job)
        if pause is None:
            pause = self._pauses[job] = _Pause(moment, moment, 0.0)
        pause.seconds = min(max(_FIRST_PAUSE_SECONDS, 2 * pause.seconds), _MAX_PAUSE_SECONDS)
        pause.until = moment + pause.seconds
        known = isinstance(error, BeiJobsError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, BeiJobsError) else "see the worker's log"
        logger.error(
            "job %s: %s steps back for %.0f s: %s (%s)",
            job, self._device, pause.seconds, reason, hint, exc_info=None if known else error,
        )  # fmt: skip
        waited = moment - pause.since
        return Refusal(
            self._host, self._pid, self._device, reason[:_TEXT_MAX_CHARS], hint[:_TEXT_MAX_CHARS],
            round(waited, 1), final=waited >= self._patience,
        )  # fmt: skip

    def accept(self, job: str) -> bool:
        """The device can run the job; returns whether it had stepped back from it."""
        return self._pauses.pop(job, None) is not None


def write_refusal(client: Client, job: str, refusal: Refusal) -> None:
    """Publish a refusal."""
    client.hset(_key(job), _field(refusal), json.dumps(asdict(refusal)))
    client.expire(_key(job), _FORGET_SECONDS)


def delete_refusal(client: Client, job: str, refusal: Refusal) -> None:
    """Take a refusal back."""
    client.hdel(_key(job), _field(refusal))


def read_refusals(client: Client, job: str) -> list[Refusal]:
    """The refusals of a job, by worker; entries that no worker wrote are left out."""
    entries = sorted(client.hgetall(_key(job)).items())
    return [refusal for _, text in entries if (refusal := _parse(text))]


def forget_refusals(client: Client, job: str) -> None:
    """Delete all refusals of a job."""
    client.delete(_key(job))


def all_refuse(
    refusals: Iterable[Refusal], devices: Sequence[tuple[str, int, str]]
) -> list[Refusal]:
    """The refusals that end a job: those of every device that is connected; else none.

    Args:
        refusals: of the job.
        devices: (host, pid, device) of every live worker that could run it.
    """
    final = {(r.host, r.pid, r.device): r for r in refusals if r.final}
    return [final[d] for d in devices] if devices and final.keys() >= set(devices) else []


def _key(job: str) -> str:
    return f"bei:job:{job}:stepped_back"


def _field(refusal: Refusal) -> str:
    return f"{refusal.host}:{refusal.pid} {refusal.device}"


def _parse(text: str) -> Refusal | None:
    """A refusal as Redis holds it, which others may write to."""
    try:
        refusal = Refusal(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (refusal.host, refusal.device, refusal.reason, refusal.hint)
    numbers = (refusal.pid, refusal.seconds)
    sound = (
        all(isinstance(value, str) and len(value) <= _TEXT_MAX_CHARS for value in texts)
        and all(isinstance(value, int | float) for value in numbers)
        and isinstance(refusal.final, bool)
    )
    return refusal if sound else None
