"""Leases, and separating spans that are under way from those that got lost."""

from __future__ import annotations

import pytest
import redis

from pipeline.output.plan import Span
from workers.span_ledger import Outstanding, SpanLedger

pytestmark = pytest.mark.integration

SPAN = Span(64, 32)


@pytest.fixture
def ledger(raw: redis.Redis) -> SpanLedger:
    return SpanLedger(raw, "job")


def look(ledger: SpanLedger, patience: float = 60.0, *, empty: bool = True) -> Outstanding:
    return ledger.outstanding(patience, queue_is_empty=empty)


def age(raw: redis.Redis, seconds: float) -> None:
    """Let time pass for what was sent."""
    for span, value in raw.hgetall("bei:job:job:sent").items():
        sent_at, times = value.split()
        raw.hset("bei:job:job:sent", span, f"{float(sent_at) - seconds} {times}")


def test_a_span_is_sent_by_one_of_many(ledger: SpanLedger) -> None:
    assert [ledger.claim(SPAN) for _ in range(3)] == [True, False, False]


def test_a_span_just_sent_is_under_way(ledger: SpanLedger) -> None:
    ledger.claim(SPAN)
    assert look(ledger) == Outstanding((SPAN,), ())


def test_a_span_that_nobody_took_is_lost_once_the_queue_is_empty(
    ledger: SpanLedger, raw: redis.Redis
) -> None:
    ledger.claim(SPAN)
    age(raw, 61)
    assert look(ledger) == Outstanding((), (SPAN,))
    assert look(ledger, empty=False) == Outstanding((SPAN,), ())


def test_a_leased_span_is_under_way_however_long_it_takes(
    ledger: SpanLedger, raw: redis.Redis
) -> None:
    ledger.claim(SPAN)
    ledger.lease(SPAN, "worker", 60).take()
    age(raw, 10**6)
    assert look(ledger) == Outstanding((SPAN,), ())


def test_each_sending_into_a_full_queue_waits_longer_than_the_last(
    ledger: SpanLedger, raw: redis.Redis
) -> None:
    waits = []
    for _ in range(4):
        ledger.claim(SPAN)
        waited = 0
        while not look(ledger, 1.0, empty=False).lost:
            age(raw, 10)
            waited += 10
        waits.append(waited)
        assert ledger.drop(SPAN)
        assert not ledger.drop(SPAN)
    assert waits == sorted(waits)
    assert waits[-1] >= 4 * waits[0]


def test_a_lease_is_held_by_one(ledger: SpanLedger) -> None:
    first, second = ledger.lease(SPAN, "first", 60), ledger.lease(SPAN, "second", 60)
    assert first.take()
    assert not second.take()
    second.renew()  # neither takes it away nor complains
    first.release()
    assert second.take()


def test_a_lease_that_redis_lost_is_taken_again(ledger: SpanLedger, raw: redis.Redis) -> None:
    lease = ledger.lease(SPAN, "me", 60)
    lease.take()
    raw.flushall()
    lease.renew()
    assert not ledger.lease(SPAN, "they", 60).take()
    raw.flushall()
    lease.release()  # fine


def test_nothing_is_left_of_a_job_that_is_forgotten(ledger: SpanLedger, raw: redis.Redis) -> None:
    ledger.claim(SPAN)
    ledger.forget()
    assert raw.keys("bei:job:*") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("x", "1 1"),
        ("0+1", "soon"),
        ("0+1", "1"),
        ("-1+1", "1 1"),
        ("0+1+1", "1 1"),
        ("٣+1", "1 1"),
    ],
)  # fmt: skip
def test_what_no_worker_wrote_is_dropped_and_the_rest_counts(
    ledger: SpanLedger, raw: redis.Redis, field: str, value: str
) -> None:
    other = Span(8, 2)
    ledger.claim(other)
    raw.hset("bei:job:job:sent", field, value)
    assert ledger.outstanding(60, queue_is_empty=True).live == (other,)
    assert raw.hkeys("bei:job:job:sent") == ["8+2"]
