"""Redis as the fleet sees it: which jobs are open, which workers live, and errors without secrets.

Nothing here is needed to get a job right: all of it can be lost, and comes back from the stores
and from the workers' own memory. Keys:

    bei:jobs                 hash    job id → JobRef as JSON: every job submitted here
    bei:open                 set     ids of the jobs that workers put right until they end
    bei:turn:<job>           string  somebody put this job right a moment ago
    bei:worker:<host>:<pid>  string  WorkerInfo as JSON; expires when the worker falls silent
    bei:job:<job>:…                  see `workers.span_ledger` and `workers.live_counters`

Imports redis but not celery, so that `bei-jobs status --broker` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from pipeline.errors import BrokerError, UsageError
from pipeline.store.uris import redact
from workers.known_jobs import JobRef
from workers.live_counters import Client, Progress, add_progress, forget_progress, read_progress
from workers.messages import QUEUE
from workers.settings import DEFAULT_LEASE_SECONDS, REDIS_LINK
from workers.span_ledger import SpanLedger

if TYPE_CHECKING:
    from celery import Celery

    from pipeline.output.run import Run

_JOBS = "bei:jobs"
_OPEN = "bei:open"
_WORKER = "bei:worker:"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One live worker."""

    host: str
    pid: int
    version: str  # of bei-jobs
    devices: tuple[str, ...]
    started: str  # ISO 8601 UTC


class Broker:
    """One Redis. Every method raises BrokerError when it is out of reach or refuses.

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
        self.name = redact(url)  # fit to print
        self.patience_seconds = patience_seconds
        if not url.startswith(("redis://", "rediss://")):
            raise UsageError(
                f"{self.name!r} is not the URL of a Redis", hint="such as redis://host:6379/0"
            )
        try:
            self._client: Client = redis.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="surrogateescape",  # what others left there is not our undoing
                # A blip is ridden out; a Redis that is not there is said so within a second, and
                # one that does not answer after one timeout.
                retry=Retry(
                    ExponentialBackoff(cap=0.5, base=0.05),
                    retries=3,
                    supported_errors=(redis.ConnectionError,),
                ),
                **REDIS_LINK,
            )
        except ValueError as error:
            raise UsageError(
                f"{self.name!r} is not the URL of a Redis: {error}",
                hint="such as redis://:password@host:6379/0",
            ) from error

    @cached_property
    def app(self) -> Celery:
        """A Celery app that sends to this broker's queue."""
        from workers.celery_app import make_app  # celery: only where something is sent

        return make_app(self.url)

    def ping(self) -> None:
        """Prove that Redis is there and lets us in."""
        with self.errors():
            self._client.ping()

    def register(self, run: Run) -> None:
        """Make a job known to the fleet, to be put right until it ends."""
        ref = JobRef.of(run)
        with self.errors():
            self._client.hset(_JOBS, ref.job, json.dumps(asdict(ref)))
            self._client.sadd(_OPEN, ref.job)

    def settle(self, job: str) -> None:
        """A job ended: it stays known, but nobody needs to look after it."""
        with self.errors():
            self._client.srem(_OPEN, job)
            SpanLedger(self._client, job).forget()
            forget_progress(self._client, job)

    def forget(self, job: str) -> None:
        """Drop a job from the fleet's memory; its output stays as it is."""
        self.settle(job)
        with self.errors():
            self._client.hdel(_JOBS, job)

    def jobs(self) -> list[JobRef]:
        """Every job submitted here, newest first."""
        with self.errors():
            found = [_job_ref(text) for text in self._client.hvals(_JOBS)]
        return sorted((r for r in found if r), key=lambda ref: ref.created, reverse=True)

    def open_jobs(self) -> list[JobRef]:
        """The jobs that have not ended."""
        with self.errors():
            names = sorted(self._client.smembers(_OPEN))
            found = self._client.hmget(_JOBS, names) if names else []
        return [ref for text in found if text and (ref := _job_ref(text))]

    def find(self, job: str) -> JobRef | None:
        """A job by id, or None where it was not submitted here or is forgotten."""
        with self.errors():
            text = self._client.hget(_JOBS, job)
        return _job_ref(text) if text else None

    def take_turn(self, job: str, seconds: float) -> bool:
        """Whether nobody took this turn within the last `seconds`: spares a fleet the listings."""
        with self.errors():
            return bool(self._client.set(f"bei:turn:{job}", "1", nx=True, px=int(seconds * 1000)))

    def progress(self, job: str) -> Progress:
        """Live counters of a job: advisory, the store is the truth."""
        with self.errors():
            return read_progress(self._client, job)

    def add_progress(self, job: str, rows: int, tokens: int) -> None:
        """Count rows and tokens that just came back from a device; negative ones take back."""
        with self.errors():
            add_progress(self._client, job, rows, tokens)

    @contextmanager
    def spans(self, job: str) -> Iterator[SpanLedger]:
        """What is known of a job's messages; errors inside the block become BrokerError."""
        with self.errors():
            yield SpanLedger(self._client, job)

    def queue_is_empty(self) -> bool:
        """Whether no message waits."""
        with self.errors():
            return not self._client.llen(QUEUE)

    def purge_rubbish(self) -> int:
        """Take what no Celery client sent out of the queue; how much it was.

        Bytes that are not a message end a Celery worker, one worker each.
        """
        with self.errors():
            rubbish = [text for text in self._client.lrange(QUEUE, 0, -1) if not _is_message(text)]
            return sum(self._client.lrem(QUEUE, 0, text) for text in set(rubbish))

    def beat(self, worker: WorkerInfo, seconds: float) -> None:
        """Say that a worker lives, for the next `seconds`."""
        with self.errors():
            key = f"{_WORKER}{worker.host}:{worker.pid}"
            self._client.set(key, json.dumps(asdict(worker)), px=int(seconds * 1000))

    def workers(self) -> list[WorkerInfo]:
        """The workers that gave a sign of life lately, by host and process id."""
        with self.errors():
            keys = sorted(self._client.scan_iter(f"{_WORKER}*", count=1000))
            texts = self._client.mget(keys) if keys else []
        return [info for text in texts if text and (info := _worker_info(text))]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the client raises inside the block into BrokerError."""
        try:
            yield
        except redis.AuthenticationError as error:
            raise BrokerError(
                f"{self.name} refuses the user or password: {error}",
                hint="give them in the URL: redis://user:password@host:6379/0",
            ) from error
        except redis.ResponseError as error:
            raise BrokerError(
                f"{self.name} refused: {error}",
                hint="check the user's rights, and that it is a Redis with room left "
                "(maxmemory-policy noeviction)",
            ) from error
        except (redis.RedisError, OSError) as error:
            raise BrokerError(
                f"{self.name} is out of reach: {error}",
                hint="check the host, the port, and that Redis runs: redis-cli -u URL ping",
            ) from error


def _is_message(text: str) -> bool:
    """Whether Celery's consumer can read it: an envelope of kombu's."""
    try:
        data = json.loads(text)
    except ValueError:
        return False
    return isinstance(data, dict) and {"body", "headers", "properties"} <= data.keys()


def _job_ref(text: str) -> JobRef | None:
    """None for what another program, or another version, left there."""
    try:
        return JobRef(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _worker_info(text: str) -> WorkerInfo | None:
    try:
        data = json.loads(text)
        return WorkerInfo(**{**data, "devices": tuple(data["devices"])})
    except (ValueError, TypeError, KeyError):
        return None
