"""What the fleet remembers, and how it reports that Redis cannot be reached."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from fixtures_redis import RedisServer
from planned import Job

from pipeline.errors import BrokerError, UsageError
from workers.broker import Broker, WorkerInfo
from workers.known_jobs import JobRef
from workers.messages import QUEUE

pytestmark = pytest.mark.integration

INFO = WorkerInfo("host", 7, "1.0", ("cuda:0", "cuda:1"), "2026-01-01T00:00:00Z")


def test_a_redis_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(BrokerError) as caught:
        Broker("redis://user:hunter2@127.0.0.1:1/0").ping()
    assert "redis://127.0.0.1:1/0 cannot be reached" in str(caught.value)
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_a_wrong_password_is_distinguished_from_a_missing_server(
    redis_server: Callable[..., RedisServer],
) -> None:
    server = redis_server()
    server.client().config_set("requirepass", "open sesame")
    with pytest.raises(BrokerError, match="refuses the user or password") as caught:
        Broker(f"redis://:hunter2@127.0.0.1:{server.port}/0").ping()
    assert "hunter2" not in str(caught.value)
    Broker(f"redis://:open%20sesame@127.0.0.1:{server.port}/0").ping()


def test_a_redis_without_room_is_a_broker_error(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    server.client().config_set("maxmemory", 1)
    with pytest.raises(BrokerError, match="refused"):
        Broker(server.url).heartbeat(INFO, 60)


@pytest.mark.parametrize("url", ["amqp://host", "host:6379", "redis://host:port/0", ""])
def test_a_url_that_is_not_of_a_redis_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not the URL of a Redis"):
        Broker(url)


def test_a_registered_job_is_open_until_it_is_closed(broker: Broker, job: Job) -> None:
    ref = JobRef.of(job.run)
    broker.register(job.run)
    assert (broker.jobs(), broker.open_jobs(), broker.find(ref.job)) == ([ref], [ref], ref)
    broker.close_job(ref.job)
    assert (broker.jobs(), broker.open_jobs(), broker.find(ref.job)) == ([ref], [], ref)
    broker.forget(ref.job)
    assert (broker.jobs(), broker.open_jobs(), broker.find(ref.job)) == ([], [], None)


def test_foreign_values_under_our_keys_are_skipped(broker: Broker, raw: redis.Redis) -> None:
    raw.hset("bei:jobs", mapping={"a": "not json", "b": '{"job": "b"}', "c": b"\xff"})
    raw.sadd("bei:open", "a", "b", "c", "nowhere")
    raw.set("bei:worker:x", "[]")
    assert (broker.jobs(), broker.open_jobs(), broker.workers()) == ([], [], [])


def test_a_worker_is_listed_until_its_heartbeats_stop(broker: Broker, raw: redis.Redis) -> None:
    broker.heartbeat(INFO, 60)
    assert broker.workers() == [INFO]
    raw.pexpire("bei:worker:host:7", 1)
    while raw.exists("bei:worker:host:7"):
        pass
    assert broker.workers() == []


def test_progress_adds_up_and_can_be_taken_back(broker: Broker) -> None:
    assert broker.progress("job").rows == 0
    broker.add_progress("job", 100, 2000)
    broker.add_progress("job", -40, -800)
    progress = broker.progress("job")
    assert (progress.rows, progress.tokens) == (60, 1200)
    assert progress.updated > 0


def test_a_turn_is_given_to_one_of_many(broker: Broker) -> None:
    assert [broker.take_turn("job", 60) for _ in range(3)] == [True, False, False]
    assert broker.take_turn("another", 60)


def test_only_valid_messages_stay_when_the_queue_is_purged(
    broker: Broker, raw: redis.Redis
) -> None:
    broker.app.send_task("bei.run_shard", kwargs={"v": 1})
    raw.lpush(QUEUE, "{}", b"\xff\xfe", "{}", "null")
    raw.rpush(QUEUE, "[]")
    assert broker.purge_invalid_messages() == 5
    assert raw.llen(QUEUE) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"body": base64.b64encode(b"null").decode()}, {"body": base64.b64encode(b"[1]").decode()},
        {"body": "not base64"}, {"body": None}, {"headers": None}, {"headers": {"task": 5}},
        {"properties": {}}, {"properties": []},
    ],
)  # fmt: skip
def test_an_envelope_without_a_task_in_it_is_no_message(
    broker: Broker, raw: redis.Redis, change: dict[str, Any]
) -> None:
    broker.app.send_task("bei.run_shard", kwargs={"v": 1})
    valid = raw.lindex(QUEUE, 0)
    raw.lpush(QUEUE, json.dumps({**json.loads(valid), **change}))

    assert broker.purge_invalid_messages() == 1
    assert raw.lrange(QUEUE, 0, -1) == [valid]
