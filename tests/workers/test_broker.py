"""What the fleet remembers, and how it reports that Redis cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import redis
from fixtures_redis import RedisServer
from planned import Job, Queued

from pipeline.errors import BrokerError, UsageError
from pipeline.output.plan import Span
from workers.broker import Broker, WorkerInfo
from workers.known_jobs import JobRef
from workers.messages import QUEUE
from workers.reconcile import reconcile

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


@pytest.mark.parametrize(
    ("key", "write"),
    [
        ("bei:open", ("SET", "x")), ("bei:open", ("HSET", "a", "b")), ("bei:jobs", ("SET", "x")),
        ("bei:jobs", ("RPUSH", "x")), (QUEUE, ("SET", "x")), ("bei:worker:h:1", ("SADD", "x")),
        ("bei:turn:{job}", ("SET", "x")), ("bei:turn:{job}", ("SADD", "x")),
        ("bei:job:{job}:sent", ("SET", "x")), ("bei:job:{job}:times", ("SADD", "x")),
        ("bei:job:{job}:times", ("HSET", "0+1", "often")), ("bei:job:{job}:crashes", ("SET", "x")),
        ("bei:job:{job}:times", ("HSET", "0+1", "9" * 18)),
        ("bei:job:{job}:stepped_back", ("SET", "x")),
        ("bei:job:{job}:sent", ("HSET", "0+1", "99999999999 1")),
        ("bei:job:{job}:lease:0+1", ("SET", "for ever")),
        ("bei:job:{job}:lease:0+1", ("SADD", "x")),
    ],
)  # fmt: skip
def test_whatever_lies_under_a_key_of_ours_a_job_is_sent_in_the_end(
    broker: Broker,
    job: Job,
    raw: redis.Redis,
    key: str,
    write: tuple[str, ...],
    queued: Queued,
) -> None:
    impatient = Broker(broker.url, patience_seconds=0.0)
    command, *values = write
    raw.execute_command(command, key.format(job=job.run.job), *values)
    for _ in range(4):
        with suppress(BrokerError):
            broker.heartbeat(INFO, 60)
            broker.open_jobs()
            if broker.take_turn(job.run.job, 0.001):
                reconcile(impatient, job.output, job.run)
    assert {span.start for span in queued()} == {0, 1, 2, 3}
    assert broker.workers() == [INFO]
    with broker.ledger(job.run.job) as ledger:
        assert any(ledger.lease(Span(0, 1), "worker", 60).take() for _ in range(2))


def test_keys_of_other_programs_are_left_alone(broker: Broker, raw: redis.Redis) -> None:
    raw.set("bei:open", "x")
    for key in ("bei:other", "bei-jobs-archive", "celery", "unacked_mutex"):
        raw.sadd(key, "theirs")
    with pytest.raises(BrokerError, match="bei-jobs does not write, and it was deleted: bei:open"):
        broker.open_jobs()
    assert broker.open_jobs() == []
    assert raw.dbsize() == 4


def test_a_job_under_another_id_is_not_believed(broker: Broker, job: Job, raw: redis.Redis) -> None:
    broker.register(job.run)
    raw.hset("bei:jobs", "bbbbbbbbbbbb", raw.hget("bei:jobs", job.run.job))
    raw.sadd("bei:open", "bbbbbbbbbbbb")
    assert broker.find("bbbbbbbbbbbb") is None
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_workers_of_other_numerics_are_no_help_and_not_listed(
    broker: Broker, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("workers.broker.NUMERICS_VERSION", 2)
        broker.heartbeat(INFO, 60)
        assert broker.workers() == [INFO]
    assert broker.workers() == []
