"""What Redis knows of a job's messages: sent, taken, and how often one killed its worker.

    bei:job:<job>:sent                   hash    "start+count" → "seconds times" when last sent
    bei:job:<job>:times                  hash    "start+count" → how often it was sent
    bei:job:<job>:lease:<start>+<count>  string  "<worker>/<attempt>", expires unless renewed
    bei:job:<job>:crashes                hash    shard index → executions begun and never ended

A span is *outstanding* while it is leased, or was sent so lately that it may still wait in the
queue. All times are by Redis's own clock: those of the machines may differ by hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import LockError
from redis.lock import Lock

from pipeline.output.plan import Span
from workers.live_counters import Client

#: Messages may wait long behind those of other jobs. One that seems lost while the queue is not
#: empty is sent again after this many times the patience, and then after twice as long each time:
#: copies that wait grow with the logarithm of the wait.
_QUEUED_PATIENCES = 20


@dataclass(frozen=True, slots=True)
class Outstanding:
    """The spans that were sent and have not ended."""

    live: tuple[Span, ...]
    lost: tuple[Span, ...]  # neither leased nor likely to wait in the queue


class SpanLedger:
    """The spans of one job. Raises what redis raises: use through `Broker.spans`."""

    def __init__(self, client: Client, job: str) -> None:
        self._client = client
        self._prefix = f"bei:job:{job}:"
        self._sent = f"{self._prefix}sent"
        self._times = f"{self._prefix}times"
        self._crashes = f"{self._prefix}crashes"

    def outstanding(self, patience_seconds: float, *, queue_is_empty: bool) -> Outstanding:
        """Tell the spans that are under way from those that got lost."""
        sent = {_span(text): value for text, value in self._client.hgetall(self._sent).items()}
        if not sent:
            return Outstanding((), ())
        leases = self._client.mget([self._lease(span) for span in sent])
        now = self._now()
        live: list[Span] = []
        lost: list[Span] = []
        for (span, value), lease in zip(sent.items(), leases, strict=True):
            at, times = value.split()
            wait = 1 if queue_is_empty else _QUEUED_PATIENCES * 2 ** min(int(times), 16)
            overdue = now - float(at) > patience_seconds * wait
            (lost if overdue and not lease else live).append(span)
        return Outstanding(tuple(live), tuple(lost))

    def claim(self, span: Span) -> bool:
        """Win the right to send a span; False where another reconciler just did."""
        times = self._client.hincrby(self._times, _text(span), 1)
        return bool(self._client.hsetnx(self._sent, _text(span), f"{self._now()} {times}"))

    def drop(self, span: Span) -> bool:
        """Give a lost span up; False where another reconciler just did."""
        return bool(self._client.hdel(self._sent, _text(span)))

    def requeued(self, span: Span) -> None:
        """A span went back into the queue."""
        self._client.hset(self._sent, _text(span), f"{self._now()} 1")

    def ended(self, span: Span) -> None:
        """A span needs no more doing."""
        self._client.hdel(self._times, _text(span))
        self._client.hdel(self._sent, _text(span))

    def count(self) -> int:
        """Spans that were sent and have not ended."""
        return int(self._client.hlen(self._sent))

    def lease(self, span: Span, owner: str, seconds: float) -> Lease:
        """A lease on a span, not yet taken."""
        return Lease(self._client, self._lease(span), owner, seconds)

    def began(self, shards: Iterable[int]) -> None:
        """An execution of these shards begins: until each ends, it counts as a crash."""
        self._count(shards, 1)

    def stopped(self, shards: Iterable[int]) -> None:
        """An execution left these shards in good order."""
        self._count(shards, -1)

    def answered(self, shards: Sequence[int]) -> None:
        """These shards are committed or failed in writing: no crash of theirs counts."""
        if shards:
            self._client.hdel(self._crashes, *map(str, shards))

    def crashes(self) -> dict[int, int]:
        """Shard index → executions that began and never ended."""
        return {int(k): int(n) for k, n in self._client.hgetall(self._crashes).items()}

    def forget(self) -> None:
        """Drop all of it; leases lapse by themselves."""
        self._client.delete(self._sent, self._times, self._crashes)

    def _count(self, shards: Iterable[int], by: int) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.hincrby(self._crashes, str(shard), by)
            pipe.execute()

    def _lease(self, span: Span) -> str:
        return f"{self._prefix}lease:{_text(span)}"

    def _now(self) -> float:
        seconds, micros = self._client.time()
        return float(seconds + micros / 1e6)


class Lease:
    """The right to run a span, which lapses `seconds` after its holder fell silent."""

    def __init__(self, client: Client, key: str, owner: str, seconds: float) -> None:
        # Not thread-local: one thread takes the lease, another renews it.
        self._lock = Lock(client, key, timeout=seconds, blocking=False, thread_local=False)
        self._owner = owner

    def take(self) -> bool:
        """Whether nobody held it."""
        return bool(self._lock.acquire(blocking=False, token=self._owner))

    def renew(self) -> None:
        """Hold it for the full time again; take it anew where Redis forgot it.

        Another holder is no reason to stop: running a shard twice is harmless.
        """
        try:
            self._lock.reacquire()
        except LockError:
            self.take()

    def release(self) -> None:
        """Give it back; fine where it was lost."""
        with suppress(LockError):
            self._lock.release()


def _text(span: Span) -> str:
    return f"{span.start}+{span.count}"


def _span(text: str) -> Span:
    start, _, count = text.partition("+")
    return Span(int(start), int(count))
