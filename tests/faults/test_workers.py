"""One worker of a fleet is not like the others."""

from __future__ import annotations

import shutil

import pytest
from faults.case import Case
from faults.points import sabotaged

pytestmark = [pytest.mark.integration, pytest.mark.kind("worker")]


def test_one_worker_computes_other_values(case: Case) -> None:
    """Its version has other numerics: it is offered nothing of the job."""
    other = case.start(**sabotaged(CHAOS_NUMERICS="1"))
    other.ready()
    case.start()
    job = case.submit()
    case.struck()
    case.finish(job)
    assert " received" not in other.log
    assert other.log.count(" rows\n") == 0
    case.check()


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs Debian's package faketime")
@pytest.mark.parametrize("skew", ["+2h", "-2h"])
def test_the_clock_of_one_worker_is_wrong(case: Case, skew: str) -> None:
    # No clock jumps under a timer of the kernel: that one is right.
    only_the_date = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    case.start_behind(("faketime", "-f", skew), **only_the_date)
    case.start()
    job = case.submit()
    case.struck()
    case.finish(job)
    case.check()


def test_one_worker_is_far_from_redis(case: Case) -> None:
    """Half a second to Redis and back: every answer is late, no promise is."""
    proxy = case.proxy()
    proxy.latency = 0.25
    case.start(proxy.redis_url)
    case.start()
    job = case.submit()
    case.struck()
    case.finish(job)
    case.check()
