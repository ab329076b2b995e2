"""Redis as the fleet uses it: open jobs, live workers, and errors without secrets.

No result depends on what Redis holds: all of it may be lost, and is rebuilt from the stores and
from what the workers remember. Keys:

    bei:jobs                 hash    job id → JobRef as JSON: every job submitted to this broker
    bei:open                 set     ids of the jobs that workers reconcile until they end
    bei:turn:<job>           string  exists for a while after the job was reconciled
    bei:worker:<host>:<pid>  string  WorkerInfo as JSON; expires without a heartbeat
    bei:devices:<host>:<pid> string  what its devices do, see `workers.device_reports`
    bei:job:<job>:…                  see `workers.span_ledger` and `workers.live_counters`

Imports redis but not celery, so that `bei-jobs status --broker` answers at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from pipeline.errors import BrokerError, UsageError
from pipeline.spec import NUMERICS_VERSION
from pipeline.store.uris import redact
from workers.device_reports import DeviceReport, from_text, to_text
from workers.known_jobs import JobRef, parse_job_ref
from workers.live_counters import Client, Progress, add_progress, forget_progress, read_progress
from workers.redis_repair import drop_if_it_never_expires, drop_what_no_worker_wrote
from workers.settings import DEFAULT_LEASE_SECONDS, REDIS_LINK
from workers.span_ledger import SpanLedger
from workers.step_back import (
    Refusal,
    delete_refusal,
    forget_refusals,
    read_refusals,
    write_refusal,
)

if TYPE_CHECKING:
    from celery import Celery

    from pipeline.output.run import Run

_JOBS = "bei:jobs"
_OPEN = "bei:open"
_WORKER = "bei:worker:"
_DEVICES = "bei:devices:"
_KEYS_SHOWN = 4

# How Redis refuses a command over a value that the command cannot be for.
_WRONG_VALUE = re.compile("WRONGTYPE|not an integer|would overflow")


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One live worker."""

    host: str
    pid: int
    version: str  # of bei-jobs
    devices: tuple[str, ...]
    started: str  # ISO 8601 UTC


class Broker:
    """One Redis. Every method raises BrokerError when Redis cannot be reached or refuses.

    Args:
        url: redis://, or rediss:// for TLS.
        patience_seconds: how long a message may take from the queue to a worker's lease.

    Raises:
        UsageError: `url` is not the URL of a Redis.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_seconds: float = DEFAULT_LEASE_SECONDS / 2,
    ) -> None:
        self.url = url
        self.name = redact(url)  # without a password
        self.patience_seconds = patience_seconds
        if not url.startswith(("redis://", "rediss://")):
            # Who knows what it is, and what of it is a password.
            raise UsageError(
                f"{self.name.rpartition('@')[2]!r} is not the URL of a Redis",
                hint="give one such as redis://host:6379/0",
            )
        try:
            if _has_open_password(url):
                raise ValueError("the password ends where it should not")
            self._client: Client = redis.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="surrogateescape",  # other programs may have written any bytes
                # A short interruption is retried. A missing Redis is reported within a second, one
                # that does not answer after one timeout.
                retry=Retry(
                    ExponentialBackoff(cap=0.5, base=0.05),
                    retries=3,
                    supported_errors=(redis.ConnectionError,),
                ),
                **REDIS_LINK,
            )
        except ValueError:  # which quotes what may be a part of the password
            raise UsageError(
                f"{self.name!r}, shown without its password, is not the URL of a Redis",
                hint="give one such as redis://:password@host:6379/0; in the password, / # ? @ % "
                "are written as %2F %23 %3F %40 %25",
            ) from None

    @cached_property
    def app(self) -> Celery:
        """A Celery app that sends to this broker's queue."""
        from workers.celery_app import make_app  # celery takes a moment to import

        return make_app(self.url)

    def ping(self) -> None:
        """Check that Redis can be reached and accepts our credentials."""
        with self.errors():
            self._client.ping()

    def register(self, run: Run) -> None:
        """Make a job known to the fleet, which reconciles it until it ends."""
        ref = JobRef.of(run)
        with self.errors():
            self._client.hset(_JOBS, ref.job, json.dumps(asdict(ref)))
            self._client.sadd(_OPEN, ref.job)

    def close_job(self, job: str) -> None:
        """Stop reconciling a job, which ended; it stays known."""
        with self.errors():
            self._client.srem(_OPEN, job)
            SpanLedger(self._client, job).forget()
            forget_progress(self._client, job)
            forget_refusals(self._client, job)

    def forget(self, job: str) -> None:
        """Remove a job from the known ones; its output is not touched."""
        self.close_job(job)
        with self.errors():
            self._client.hdel(_JOBS, job)

    def jobs(self) -> list[JobRef]:
        """Every job submitted to this broker, newest first."""
        with self.errors():
            refs = [parse_job_ref(text) for text in self._client.hvals(_JOBS)]
        return sorted((ref for ref in refs if ref), key=lambda ref: ref.created, reverse=True)

    def open_jobs(self) -> list[JobRef]:
        """The jobs that have not ended."""
        with self.errors():
            ids = sorted(self._client.smembers(_OPEN))
            texts = self._client.hmget(_JOBS, ids) if ids else []
        return [ref for job, text in zip(ids, texts, strict=True) if (ref := _job_ref(job, text))]

    def find(self, job: str) -> JobRef | None:
        """A job by id; None where it was not submitted to this broker or was forgotten."""
        with self.errors():
            text = self._client.hget(_JOBS, job)
        return _job_ref(job, text)

    def take_turn(self, job: str, seconds: float) -> bool:
        """Claim a job for `seconds`; False where another worker did, which saves listings."""
        key = f"bei:turn:{job}"
        with self.errors():
            if self._client.set(key, "1", nx=True, px=int(seconds * 1000)):
                return True
            drop_if_it_never_expires(self._client, key)
            return False

    def progress(self, job: str) -> Progress:
        """The live counters of a job. They are advisory: the store is the truth."""
        with self.errors():
            return read_progress(self._client, job)

    def add_progress(self, job: str, rows: int, tokens: int) -> None:
        """Add rows and tokens that a device just computed; negative values take them back."""
        with self.errors():
            add_progress(self._client, job, rows, tokens)

    def refuse(self, job: str, refusal: Refusal) -> None:
        """Publish that a device has stepped back from a job."""
        with self.errors():
            write_refusal(self._client, job, refusal)

    def take_back_refusal(self, job: str, refusal: Refusal) -> None:
        """A device that had stepped back runs the job again."""
        with self.errors():
            delete_refusal(self._client, job, refusal)

    def refusals(self, job: str) -> list[Refusal]:
        """The devices of live workers that have stepped back from a job."""
        with self.errors():
            refusals = read_refusals(self._client, job)
        live = {(worker.host, worker.pid) for worker in self.workers()} if refusals else set()
        return [refusal for refusal in refusals if (refusal.host, refusal.pid) in live]

    @contextmanager
    def ledger(self, job: str) -> Iterator[SpanLedger]:
        """The ledger of a job's spans; errors inside the context become BrokerError."""
        with self.errors():
            yield SpanLedger(self._client, job)

    def queue_is_empty(self, queue: str) -> bool:
        """Whether no message is waiting in a queue."""
        with self.errors():
            return not self._client.llen(queue)

    def heartbeat(self, worker: WorkerInfo, seconds: float) -> None:
        """List a worker as live for the next `seconds`."""
        with self.errors():
            key = f"{_WORKER}{worker.host}:{worker.pid}"
            # 0.1.0 skips a worker with more fields: it is none for the jobs of 0.1.0.
            numerics = {} if NUMERICS_VERSION == 1 else {"numerics": NUMERICS_VERSION}
            value = json.dumps({**asdict(worker), **numerics})
            self._client.set(key, value, px=int(seconds * 1000))

    def workers(self) -> list[WorkerInfo]:
        """The live workers that compute what this version computes, by host and process id."""
        with self.errors():
            keys = sorted(self._client.scan_iter(f"{_WORKER}*", count=1000))
            texts = self._client.mget(keys) if keys else []
        return [info for text in texts if text and (info := _worker_info(text))]

    def report(self, worker: WorkerInfo, reports: Iterable[DeviceReport], seconds: float) -> None:
        """Say what the devices of a worker do; that holds for the next `seconds`."""
        with self.errors():
            key = f"{_DEVICES}{worker.host}:{worker.pid}"
            self._client.set(key, to_text(reports), px=int(seconds * 1000))

    def reports(self, workers: Sequence[WorkerInfo]) -> list[tuple[DeviceReport, ...]]:
        """What the devices of each of some workers do; nothing of those of earlier versions."""
        keys = [f"{_DEVICES}{worker.host}:{worker.pid}" for worker in workers]
        with self.errors():
            texts = self._client.mget(keys) if keys else []
        return [from_text(text) for text in texts]

    def _repair(self, error: redis.ResponseError) -> list[str]:
        """The keys that were deleted, or repaired, where the error was over a wrong value."""
        with suppress(redis.RedisError):
            if _WRONG_VALUE.search(str(error)):
                return drop_what_no_worker_wrote(self._client)
        return []

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the client's errors inside the context into BrokerError."""
        try:
            yield
        except redis.AuthenticationError as error:
            raise BrokerError(
                f"{self.name} refuses the user or password: {error}",
                hint="give the right ones in the URL: redis://user:password@host:6379/0",
            ) from error
        except redis.ResponseError as error:
            if keys := self._repair(error):
                raise BrokerError(
                    f"{self.name} held what bei-jobs does not write, and it was deleted: "
                    f"{', '.join(keys[:_KEYS_SHOWN])}",
                    hint="try again; nothing is lost, but find out which program writes there",
                ) from error
            raise BrokerError(
                f"{self.name} refused a command: {error}",
                hint="check the user's permissions, and that Redis has free memory "
                "(maxmemory-policy noeviction)",
            ) from error
        except (redis.RedisError, OSError) as error:
            raise BrokerError(
                f"{self.name} cannot be reached: {error}",
                hint="check the host, the port, and that Redis runs: redis-cli -u URL ping",
            ) from error


def _has_open_password(url: str) -> bool:
    """Whether a character ends the password, and with it what would be host and port.

    Raises:
        ValueError: it is no URL at all.
    """
    parts = urlsplit(url)
    return "@" in url and "@" not in parts.netloc and "=" not in parts.query


def _job_ref(job: str, text: str | None) -> JobRef | None:
    """The job under an id; None where there is none, or another."""
    ref = parse_job_ref(text) if text else None
    return ref if ref is not None and ref.job == job else None


def _worker_info(text: str) -> WorkerInfo | None:
    """A heartbeat; None for a value that another program or version wrote."""
    try:
        data = json.loads(text)
        numerics = data.pop("numerics", 1)
        info = WorkerInfo(**{**data, "devices": tuple(data["devices"])})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if numerics != NUMERICS_VERSION:
        return None
    texts = (info.host, info.version, info.started, *info.devices)
    fits = isinstance(info.pid, int) and all(isinstance(value, str) for value in texts)
    return info if fits else None
