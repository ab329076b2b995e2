"""One message handler, one message: what it computes, leaves alone and records."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from celery.exceptions import Reject
from corpora import TINY, write_parquet
from fixtures_redis import RedisServer
from planned import Job, MakeHandler, MakeJob

from pipeline.errors import OutputConflict, StorageError
from pipeline.output.output import Output
from pipeline.output.plan import Span
from workers.broker import Broker
from workers.celery_app import make_app
from workers.celery_tasks import MessageHandler, check_version, register_tasks
from workers.engine_cache import EngineCache
from workers.known_jobs import KnownJobs
from workers.messages import FINALIZE_JOB, MESSAGE_VERSION, QUEUE, RUN_SPAN, queue_of
from workers.reconcile import reconcile
from workers.settings import Settings
from workers.span_attempt import Device

pytestmark = pytest.mark.integration


def test_a_span_is_computed_and_its_lease_released(
    job: Job, handler: MessageHandler, raw: redis.Redis
) -> None:
    assert handler.run_shard(job.message(1, 2))
    assert job.committed == [1, 2]
    assert raw.keys("*:lease:*") == []
    assert raw.hgetall(f"bei:job:{job.run.job}:crashes") == {}


def test_a_span_that_another_worker_holds_is_left_to_it(
    job: Job, handler: MessageHandler, broker: Broker
) -> None:
    with broker.ledger(job.run.job) as ledger:
        lease_of_another = ledger.lease(Span(1, 2), "another", 60)
        lease_of_another.take()
        assert handler.run_shard(job.message(1, 2))
        assert job.committed == []
        lease_of_another.release()
    assert handler.run_shard(job.message(1, 2))
    assert job.committed == [1, 2]


def test_committed_shards_are_not_computed_again(
    job: Job, handler: MessageHandler, broker: Broker
) -> None:
    handler.run_shard(job.message(0, 2))
    handler.run_shard(job.message(0, 4))
    assert job.committed == [0, 1, 2, 3]
    assert broker.progress(job.run.job).rows == 40


def test_an_output_that_was_deleted_and_submitted_anew_is_a_new_plan(
    job: Job, make_job: MakeJob, handler: MessageHandler
) -> None:
    handler.run_shard(job.message(0, 4))
    shutil.rmtree(job.output.uri)
    again = make_job(6)  # the same file with more rows, the same output
    assert again.run.job == job.run.job
    assert handler.run_shard(again.message(0, 6))
    assert again.committed == [0, 1, 2, 3, 4, 5]


def test_a_span_beyond_the_plan_is_harmless(job: Job, handler: MessageHandler) -> None:
    assert handler.run_shard(job.message(3, 64))
    assert handler.run_shard(job.message(99, 1))
    assert job.committed == [3]


def test_a_worker_that_stops_gives_the_message_back(
    job: Job, make_handler: MakeHandler, broker: Broker
) -> None:
    reconcile(broker, job.output, job.run)
    assert not make_handler(lambda: True).run_shard(job.message(0, 4))
    assert job.committed == []
    with broker.ledger(job.run.job) as ledger:
        assert set(ledger.crashes().values()) <= {0}
    assert broker.progress(job.run.job).rows == 0


def test_a_span_that_takes_long_keeps_its_lease(
    job: Job, broker: Broker, known_jobs: KnownJobs, raw: redis.Redis, settings: Settings
) -> None:
    seen: list[int] = []

    def wait_for_a_renewal() -> bool:
        """Hold the device until the time left on the lease has grown, or it lapsed."""
        while not any(b > a for a, b in pairwise(seen)) and (not seen or seen[-1] > 0):
            seen.append(raw.pttl(f"bei:job:{job.run.job}:lease:0+4"))
        return False

    short = replace(settings, lease_seconds=0.5)
    device = Device("cpu", EngineCache(settings.cache_dir), wait_for_a_renewal)
    MessageHandler(short, broker, known_jobs, device).run_shard(job.message(0, 4))
    assert job.committed == [0, 1, 2, 3]
    assert min(seen) > 0


def test_a_message_given_back_is_rejected_for_celery(
    job: Job, make_handler: MakeHandler, redis_url: str
) -> None:
    app = make_app(redis_url)
    register_tasks(app, lambda: make_handler(lambda: True))
    with pytest.raises(Reject) as caught:
        app.tasks[RUN_SPAN](**job.message(0, 4).to_kwargs())
    assert caught.value.requeue


def test_the_last_span_has_the_job_reconciled(
    job: Job, handler: MessageHandler, broker: Broker
) -> None:
    reconcile(broker, job.output, job.run)
    app = make_app(broker.url)
    register_tasks(app, lambda: handler)
    for shard in range(4):
        app.tasks[RUN_SPAN](**job.message(shard).to_kwargs())
    with app.connection_for_read() as connection:
        waiting = connection.SimpleQueue(app.amqp.queues[QUEUE])
        names = [waiting.get(block=False).headers["task"] for _ in range(5)]
    assert names == [RUN_SPAN] * 4 + [FINALIZE_JOB]
    app.tasks[FINALIZE_JOB](**job.message(0, 0).to_kwargs())
    assert job.output.directory.exists(job.run.path("manifest.json"))


def test_a_job_in_hand_is_remembered_on_disk(
    job: Job, handler: MessageHandler, known_jobs: KnownJobs
) -> None:
    handler.run_shard(job.message())
    assert [ref.job for ref in known_jobs.all()] == [job.run.job]


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_messages_of_a_job_that_ended_come_to_nothing(
    job: Job, handler: MessageHandler, end: str
) -> None:
    if end == "cancel":
        job.output.cancel(job.run)
    else:
        job.output.fail(job.run, "no hope")
    assert handler.run_shard(job.message(0, 4))
    assert job.committed == []


def test_a_checkpoint_that_differs_here_fails_the_span_for_good(
    make_job: MakeJob, handler: MessageHandler, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    job = make_job(model=str(model))
    config = model / "sentence_bert_config.json"
    config.write_text('{"max_seq_length": 5}')
    assert handler.run_shard(job.message(1, 2))
    failures = job.output.failures(job.run)
    assert set(failures) == {job.plan.shard(1).id, job.plan.shard(2).id}
    assert all("was submitted with" in failure.error for failure in failures.values())
    assert all(failure.hint for failure in failures.values())


def test_a_broken_shard_is_written_down_and_its_neighbours_are_computed(
    make_job: MakeJob, handler: MessageHandler, tmp_path: Path
) -> None:
    corpora = tmp_path / "corpora"
    for name in ("a", "b", "c"):
        write_parquet(corpora / f"{name}.parquet", 10)
    job = make_job(corpus=corpora)
    damage(corpora / "b.parquet")
    for shard in range(3):
        handler.run_shard(job.message(shard))
    assert job.committed == [0, 2]
    (failure,) = job.output.failures(job.run).values()
    assert "b.parquet" in failure.error


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)


def test_an_error_that_names_no_shard_is_pinned_down_by_trying_each_alone(
    job: Job, handler: MessageHandler, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("workers.span_attempt.run_shards", burst)
    handler.run_shard(job.message(0, 2))
    with broker.ledger(job.run.job) as ledger:
        assert ledger.crashes() == {0: 1, 1: 1}  # suspects: sent alone from now on
    for _ in range(3):
        handler.run_shard(job.message(1))
    (failure,) = job.output.failures(job.run).values()
    assert "rows 10-19: MemoryError: no room" in failure.error


def test_a_store_that_cannot_be_reached_costs_no_attempt(
    job: Job, handler: MessageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("the bucket is on fire")

    with monkeypatch.context() as broken:
        broken.setattr(Output, "commit", refuse)
        broken.setattr(Output, "record_failure", refuse)
        assert handler.run_shard(job.message(0, 2))
    assert job.output.failures(job.run) == {}
    handler.run_shard(job.message(0, 2))
    assert job.committed == [0, 1]


def test_work_continues_when_redis_goes_away_in_the_middle(
    make_job: MakeJob,
    redis_server: Callable[..., RedisServer],
    settings: Settings,
    known_jobs: KnownJobs,
) -> None:
    server = redis_server()
    job = make_job()

    def stop_redis_once() -> bool:
        server.kill()
        return False

    device = Device("cpu", EngineCache(settings.cache_dir), stop_redis_once)
    MessageHandler(settings, Broker(server.url), known_jobs, device).run_shard(job.message(0, 4))
    assert job.committed == [0, 1, 2, 3]


def test_a_job_planned_by_other_numbers_is_left_to_other_workers(
    job: Job,
    handler: MessageHandler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.spec.NUMERICS_VERSION", 10**6)
    with pytest.raises(OutputConflict, match="results differ"):
        check_version(job.run, job.plan)
    with caplog.at_level(logging.ERROR):
        assert handler.run_shard(job.message(0, 4))
        assert handler.run_shard(job.message(0, 4))
    assert job.committed == []
    assert job.output.failures(job.run) == {}
    assert caplog.text.count("cannot run on this worker") == 1  # logged once, not for each message


def test_an_output_that_this_worker_cannot_see_is_no_failure_of_the_job(
    job: Job, handler: MessageHandler
) -> None:
    elsewhere = replace(job.message(), output="/nowhere/to/be/seen")
    assert handler.run_shard(elsewhere)
    assert job.output.failures(job.run) == {}


def test_a_newer_message_moves_to_the_newer_queue(
    make_handler: MakeHandler, redis_url: str, raw: redis.Redis
) -> None:
    app = make_app(redis_url)
    handler = make_handler()
    register_tasks(app, lambda: handler)
    app.tasks[RUN_SPAN](v=MESSAGE_VERSION + 1, more="than we know")
    assert raw.llen(QUEUE) == 0
    assert raw.llen(queue_of(MESSAGE_VERSION + 1)) == 1


def test_a_message_without_sense_is_dropped(
    make_handler: MakeHandler, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(redis_url)
    handler = make_handler()
    register_tasks(app, lambda: handler)
    app.tasks[RUN_SPAN](n="1")
    assert "dropped" in caplog.text
