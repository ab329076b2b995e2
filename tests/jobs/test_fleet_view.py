"""Commands with --broker say how many workers are connected, and how fast they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from commandline import Bei
from corpora import TINY, write_parquet

from pipeline.output.plan import Span
from workers.broker import Broker, WorkerInfo
from workers.step_back import Refusal

WORKER = WorkerInfo("gpu-7", 41, "0.1.0", ("cuda:0", "cuda:1"), "2026-01-01T00:00:00Z")
FLEET_KEYS = {
    "workers", "rows_per_second", "tokens_per_second", "spans_under_way", "stepped_back"
}  # fmt: skip


@pytest.fixture
def submitted(bei: Bei, tmp_path: Path, redis_url: str) -> Callable[..., str]:
    """Enqueue a job; its id."""

    def submit(*words: object) -> str:
        corpus = write_parquet(tmp_path / "corpus.parquet", 8)
        done = bei("submit", corpus, "--model", TINY, "--broker", redis_url, "--json", *words)
        assert done.code == 0, done.err
        job: str = done.json["job"]
        return job

    return submit


def test_a_submit_that_no_worker_will_take_says_so(
    bei: Bei, tmp_path: Path, redis_url: str
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 8)

    done = bei("submit", corpus, "--model", TINY, "--broker", redis_url, "--quiet")

    assert done.code == 0
    assert "no worker is connected: start one with `bei-jobs worker" in done.err
    assert re.search(r"^  workers no worker is connected$", done.out, re.MULTILINE)


def test_status_and_list_show_the_workers_and_their_speed(
    bei: Bei, submitted: Callable[..., str], redis_url: str
) -> None:
    job = submitted()
    Broker(redis_url).heartbeat(WORKER, 60)
    client = redis.Redis.from_url(redis_url)
    decade = client.time()[0] // 10
    for bucket in range(decade - 5, decade + 5):  # whichever three are complete when it is read
        client.hset(f"bei:job:{job}:pace:{bucket}", mapping={"rows": 40, "tokens": 900})

    status = bei("status", job, "--broker", redis_url)
    told = bei("status", job, "--broker", redis_url, "--json").json
    listed = bei("list", "--broker", redis_url)
    listed_json = bei("list", "--broker", redis_url, "--json").json

    assert "workers 1 worker on 2 devices, 0 spans under way, 4 rows/s, 90 tokens/s" in status.out
    assert told["workers"][0]["host"] == "gpu-7"
    assert told["rows_per_second"] == 4.0
    assert "1 worker on 2 devices, 0 spans under way, 4 rows/s" in listed.out
    assert listed_json.keys() == {"jobs"} | FLEET_KEYS


def test_without_a_broker_nothing_is_said_of_workers(
    bei: Bei, submitted: Callable[..., str]
) -> None:
    told = bei("status", submitted(), "--json").json

    assert told.keys().isdisjoint(FLEET_KEYS)


def test_a_worker_that_stepped_back_is_shown_with_its_reason(
    bei: Bei, submitted: Callable[..., str], redis_url: str
) -> None:
    job = submitted()
    broker = Broker(redis_url)
    broker.heartbeat(WORKER, 60)
    broker.refuse(job, Refusal("gpu-7", 41, "cuda:1", "no model here", "copy it", 9.5, final=False))
    with broker.ledger(job) as ledger:
        ledger.lease(Span(0, 1), "gpu-7:42:a", 60).take()

    status = bei("status", job, "--broker", redis_url)
    told = bei("status", job, "--broker", redis_url, "--json").json

    assert "stepped back  gpu-7 (cuda:1): no model here" in status.out
    assert "1 worker on 2 devices, 1 span under way" in status.out
    (refusal,) = told["stepped_back"]
    assert (refusal["host"], refusal["device"], refusal["hint"]) == ("gpu-7", "cuda:1", "copy it")
    assert told["spans_under_way"] == 1
