"""A worker that is cut off from Redis alone, or from the store alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.case import Case
from faults.proxy import Proxy
from fleet import until

pytestmark = [pytest.mark.integration, pytest.mark.kind("partition")]

Partition = Callable[[Proxy], None]
SHORT_S, LONG_S = 2.0, 13.0


def cut(proxy: Proxy) -> None:
    proxy.cut()
    time.sleep(SHORT_S)  # the partition itself


def cut_for_long(proxy: Proxy) -> None:
    proxy.cut()
    time.sleep(LONG_S)


def black_hole(proxy: Proxy) -> None:
    proxy.black_hole()
    time.sleep(LONG_S)


def slow(proxy: Proxy) -> None:
    proxy.latency = 0.2
    time.sleep(SHORT_S)


def flapping(proxy: Proxy) -> None:
    for _ in range(10):
        proxy.cut()
        time.sleep(0.2)
        proxy.heal()
        time.sleep(0.2)


def quick(partition: Partition) -> object:
    return pytest.param(partition, marks=pytest.mark.quick)


def words(partition: Partition) -> str:
    return partition.__name__.replace("_", " ")


@pytest.mark.parametrize("alone", [True, False], ids=["the only worker", "one of two"])
@pytest.mark.parametrize("partition", [cut, cut_for_long, black_hole, slow, flapping], ids=words)
def test_cut_off_from_redis_only(case: Case, partition: Partition, alone: bool) -> None:
    partitioned(case, partition, alone)


@pytest.mark.quick
def test_cut_off_from_redis_for_a_moment(case: Case) -> None:
    partitioned(case, cut, alone=True)


def partitioned(case: Case, partition: Partition, alone: bool) -> None:
    proxy = case.proxy()
    paused = case.pause_at("mid-shard")
    machine = case.start(proxy.redis_url, **paused.environment)
    job = case.submit()
    paused.reached()
    until(machine.remembers, "the worker to know the job")
    if not alone:
        case.start()
    paused.release_during()
    partition(proxy)
    proxy.heal()
    case.struck()
    case.finish(job)
    case.check()


@pytest.mark.parametrize("partition", [cut, cut_for_long, black_hole, slow, flapping], ids=words)
def test_cut_off_from_the_store_only(case: Case, s3: Any, partition: Partition) -> None:
    proxy = case.proxy(int(s3.endpoint.rpartition(":")[2]))
    paused = case.pause_at("mid-shard")
    case.start(AWS_ENDPOINT_URL=proxy.http_url, **paused.environment)
    job = case.submit(output=f"s3://{s3.make_bucket()}/vectors")
    paused.reached()
    case.start()
    paused.release_during()
    partition(proxy)
    proxy.heal()
    case.struck()
    case.finish_or_resume(job)
    case.check(failures=6)
