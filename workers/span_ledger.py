"""What Redis knows of a job's spans: when they were sent, and who runs them.

    bei:job:<job>:sent                   hash    "start+count" → "<time last sent> <times sent>"
    bei:job:<job>:times                  hash    "start+count" → times sent
    bei:job:<job>:lease:<start>+<count>  string  "<host>:<pid>:<attempt>", expires unless renewed

A span is *outstanding* while it is leased, or was sent so recently that it may still wait in the
queue. Times are in seconds by Redis's own clock: those of the machines may differ by hours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from redis.exceptions import LockError
from redis.lock import Lock

from pipeline.output.plan import Span
from workers.live_counters import Client
from workers.redis_repair import drop_if_it_never_expires

logger = logging.getLogger(__name__)

# Messages may wait long behind those of other jobs. While the queue is not empty, a message is
# sent again after this many times the patience, and then after twice as long each time, so that
# the number of waiting copies grows only with the logarithm of the wait.
_QUEUED_PATIENCES = 20

# How far Redis's clock may have been set back.
_CLOCK_MARGIN_SECONDS = 60.0

# Others may write to Redis too: what does not look like an entry of a worker is no entry.
_FIELD = re.compile(r"(\d{1,12})\+(\d{1,3})", re.ASCII)  # spans are far shorter than 999 shards
_ENTRY = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) (\d{1,12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Outstanding:
    """The spans that were sent and have not ended."""

    live: tuple[Span, ...]
    lost: tuple[Span, ...]  # neither leased nor likely to be waiting in the queue
    leased: int = field(default=0, compare=False)  # of the live ones


class SpanLedger:
    """The spans of one job. Raises the errors of redis-py: use it through `Broker.ledger`."""

    def __init__(self, client: Client, job: str) -> None:
        self._client = client
        self._prefix = f"bei:job:{job}:"
        self._sent = f"{self._prefix}sent"
        self._times = f"{self._prefix}times"

    def outstanding(self, patience_seconds: float, *, queue_is_empty: bool) -> Outstanding:
        """Separate the spans that are under way from those that got lost.

        Args:
            patience_seconds: how long a message may take from an empty queue to a lease.
            queue_is_empty: whether no message is waiting.
        """
        sent = self._read_sent()
        if not sent:
            return Outstanding((), ())
        leases = self._client.mget([self._lease_key(span) for span in sent])
        self._drop_endless(span for span, lease in zip(sent, leases, strict=True) if lease)
        now = self._now()
        live: list[Span] = []
        lost: list[Span] = []
        for (span, (sent_at, times)), lease in zip(sent.items(), leases, strict=True):
            wait = 1 if queue_is_empty else _QUEUED_PATIENCES * 2 ** min(times, 16)
            overdue = now - sent_at > patience_seconds * wait
            (lost if overdue and not lease else live).append(span)
        return Outstanding(tuple(live), tuple(lost), sum(lease is not None for lease in leases))

    def _read_sent(self) -> dict[Span, tuple[float, int]]:
        """Span → when it was last sent, and how often; fields that no worker wrote are deleted."""
        sent: dict[Span, tuple[float, int]] = {}
        invalid: list[str] = []
        now = self._now()
        for text, value in self._client.hgetall(self._sent).items():
            field, entry = _FIELD.fullmatch(text), _ENTRY.fullmatch(value)
            # An entry from the future would never be overdue.
            if field and entry and float(entry[1]) < now + _CLOCK_MARGIN_SECONDS:
                span = Span(int(field[1]), int(field[2]))
                sent[span] = float(entry[1]), int(entry[2])
            else:
                invalid.append(text)
        if invalid:
            logger.error("dropped %d invalid entries of %s", len(invalid), self._sent)
            self._client.hdel(self._sent, *invalid)
            self._client.hdel(self._times, *invalid)
        return sent

    def leased(self) -> list[Span]:
        """Spans that a worker is computing."""
        sent = self._read_sent()
        leases = self._client.mget([self._lease_key(span) for span in sent]) if sent else []
        return [span for span, lease in zip(sent, leases, strict=True) if lease is not None]

    def _drop_endless(self, leased: Iterable[Span]) -> None:
        for span in leased:
            drop_if_it_never_expires(self._client, self._lease_key(span))

    def waited(self, span: Span) -> float | None:
        """Seconds since a span was sent; None where that is not known."""
        entry = _ENTRY.fullmatch(self._client.hget(self._sent, _field(span)) or "")
        return None if entry is None else max(0.0, self._now() - float(entry[1]))

    def claim(self, span: Span) -> bool:
        """Claim the right to send a span; False where another process just did."""
        times = self._client.hincrby(self._times, _field(span), 1)
        return bool(self._client.hsetnx(self._sent, _field(span), f"{self._now()} {times}"))

    def drop(self, span: Span) -> bool:
        """Forget that a lost span was sent; False where another process just did."""
        return bool(self._client.hdel(self._sent, _field(span)))

    def requeued(self, span: Span) -> None:
        """Note that a span was requeued."""
        self._client.hset(self._sent, _field(span), f"{self._now()} 1")

    def ended(self, span: Span) -> None:
        """Note that a span has ended."""
        self._client.hdel(self._times, _field(span))
        self._client.hdel(self._sent, _field(span))

    def count(self) -> int:
        """Spans that were sent and have not ended."""
        return int(self._client.hlen(self._sent))

    def lease(self, span: Span, owner: str, seconds: float) -> Lease:
        """A lease on a span, not yet taken."""
        return Lease(self._client, self._lease_key(span), owner, seconds)

    def forget(self) -> None:
        """Delete everything about the job; leases expire by themselves."""
        self._client.delete(self._sent, self._times, f"{self._prefix}crashes")  # the last of 0.1

    def _lease_key(self, span: Span) -> str:
        return f"{self._prefix}lease:{_field(span)}"

    def _now(self) -> float:
        seconds, micros = self._client.time()
        return float(seconds + micros / 1e6)


class Lease:
    """The right to run a span; it expires `seconds` after the last renewal."""

    def __init__(self, client: Client, key: str, owner: str, seconds: float) -> None:
        # Not thread-local: one thread takes the lease, another renews it.
        self._lock = Lock(client, key, timeout=seconds, blocking=False, thread_local=False)
        self._client = client
        self._key = key
        self._owner = owner

    def take(self) -> bool:
        """Take the lease; False where another owner holds it."""
        if self._lock.acquire(blocking=False, token=self._owner):
            return True
        drop_if_it_never_expires(self._client, self._key)
        return False

    def renew(self) -> None:
        """Extend the lease to its full time; take it again where Redis lost it.

        If another worker took it meanwhile, nothing happens: running a shard twice is harmless.
        """
        try:
            self._lock.reacquire()
        except LockError:
            self.take()

    def release(self) -> None:
        """Release the lease; a lost lease is no error."""
        with suppress(LockError):
            self._lock.release()


def _field(span: Span) -> str:
    return f"{span.start}+{span.count}"
