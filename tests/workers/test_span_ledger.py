"""Leases, and telling spans that are under way from those that got lost."""

from __future__ import annotations

import pytest
import redis

from pipeline.output.plan import Span
from workers.span_ledger import Outstanding, SpanLedger

pytestmark = pytest.mark.integration

SPAN = Span(64, 32)


@pytest.fixture
def spans(raw: redis.Redis) -> SpanLedger:
    return SpanLedger(raw, "job")


def look(spans: SpanLedger, patience: float = 60.0, *, empty: bool = True) -> Outstanding:
    return spans.outstanding(patience, queue_is_empty=empty)


def age(raw: redis.Redis, seconds: float) -> None:
    """Let time pass for what was sent."""
    for span, value in raw.hgetall("bei:job:job:sent").items():
        at, times = value.split()
        raw.hset("bei:job:job:sent", span, f"{float(at) - seconds} {times}")


def test_a_span_is_sent_by_one_of_many(spans: SpanLedger) -> None:
    assert [spans.claim(SPAN) for _ in range(3)] == [True, False, False]


def test_a_span_just_sent_is_under_way(spans: SpanLedger) -> None:
    spans.claim(SPAN)
    assert look(spans) == Outstanding((SPAN,), ())


def test_a_span_that_nobody_took_is_lost_once_the_queue_is_empty(
    spans: SpanLedger, raw: redis.Redis
) -> None:
    spans.claim(SPAN)
    age(raw, 61)
    assert look(spans) == Outstanding((), (SPAN,))
    assert look(spans, empty=False) == Outstanding((SPAN,), ())


def test_a_leased_span_is_under_way_however_long_it_takes(
    spans: SpanLedger, raw: redis.Redis
) -> None:
    spans.claim(SPAN)
    spans.lease(SPAN, "worker", 60).take()
    age(raw, 10**6)
    assert look(spans) == Outstanding((SPAN,), ())


def test_each_sending_into_a_full_queue_waits_longer_than_the_last(
    spans: SpanLedger, raw: redis.Redis
) -> None:
    waits = []
    for _ in range(4):
        spans.claim(SPAN)
        waited = 0
        while not look(spans, 1.0, empty=False).lost:
            age(raw, 10)
            waited += 10
        waits.append(waited)
        assert spans.drop(SPAN)
        assert not spans.drop(SPAN)
    assert waits == sorted(waits)
    assert waits[-1] >= 4 * waits[0]


def test_a_lease_is_held_by_one(spans: SpanLedger) -> None:
    mine, theirs = spans.lease(SPAN, "me", 60), spans.lease(SPAN, "they", 60)
    assert mine.take()
    assert not theirs.take()
    theirs.renew()  # neither takes it away nor complains
    mine.release()
    assert theirs.take()


def test_a_lease_that_redis_forgot_is_taken_anew(spans: SpanLedger, raw: redis.Redis) -> None:
    lease = spans.lease(SPAN, "me", 60)
    lease.take()
    raw.flushall()
    lease.renew()
    assert not spans.lease(SPAN, "they", 60).take()
    raw.flushall()
    lease.release()  # fine


def test_an_execution_that_ends_in_good_order_is_no_crash(spans: SpanLedger) -> None:
    spans.began([1, 2, 3])
    spans.began([3])
    spans.answered([1])
    spans.stopped([2])
    assert {shard: n for shard, n in spans.crashes().items() if n} == {3: 2}


def test_nothing_is_left_of_a_job_that_is_forgotten(spans: SpanLedger, raw: redis.Redis) -> None:
    spans.claim(SPAN)
    spans.began([1])
    spans.forget()
    assert raw.keys("bei:job:*") == []
