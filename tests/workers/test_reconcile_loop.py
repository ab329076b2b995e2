"""Jobs that go on with nobody watching, whatever Redis forgets."""

from __future__ import annotations

import logging
import shutil

import pytest
import redis
from planned import Job, MakeJob, Queued

from workers.broker import Broker
from workers.celery_tasks import MessageHandler
from workers.known_jobs import JobRef, KnownJobs
from workers.reconcile import reconcile
from workers.reconcile_loop import ReconcileLoop

pytestmark = pytest.mark.integration


@pytest.fixture
def upkeep(broker: Broker, registry: KnownJobs) -> ReconcileLoop:
    return ReconcileLoop(broker, registry, turn_seconds=0.001)


def test_a_job_seen_once_outlives_a_flush(
    job: Job,
    broker: Broker,
    upkeep: ReconcileLoop,
    registry: KnownJobs,
    queued: Queued,
    raw: redis.Redis,
) -> None:
    broker.register(job.run)
    upkeep.look_after_all()
    raw.flushall()
    upkeep.look_after_all()
    assert len(queued()) == 4
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_a_job_that_was_only_heard_of_outlives_a_flush(
    job: Job, broker: Broker, upkeep: ReconcileLoop, queued: Queued, raw: redis.Redis
) -> None:
    broker.register(job.run)
    upkeep.learn()
    raw.flushall()
    upkeep.look_after_all()
    assert len(queued()) == 4


def test_a_job_seen_before_a_restart_outlives_a_flush(
    job: Job,
    broker: Broker,
    upkeep: ReconcileLoop,
    registry: KnownJobs,
    queued: Queued,
    raw: redis.Redis,
) -> None:
    broker.register(job.run)
    upkeep.look_after_all()
    raw.flushall()
    ReconcileLoop(broker, KnownJobs(registry._folder.parent), 0.001).look_after_all()
    assert len(queued()) == 4


def test_a_job_that_ended_is_looked_after_no_more(
    job: Job, broker: Broker, upkeep: ReconcileLoop, registry: KnownJobs, handler: MessageHandler
) -> None:
    broker.register(job.run)
    upkeep.look_after_all()
    for shard in range(4):
        handler.run_shard(job.message(shard))
    while registry.all():
        upkeep.look_after_all()
    assert job.output.directory.exists(job.run.path("manifest.json"))
    assert broker.open_jobs() == []


def test_a_job_that_ended_elsewhere_is_not_put_back(
    job: Job, broker: Broker, upkeep: ReconcileLoop, registry: KnownJobs
) -> None:
    registry.add(JobRef.of(job.run))
    job.output.cancel(job.run)
    upkeep.look_after_all()
    assert (registry.all(), broker.open_jobs()) == ([], [])


def test_a_job_that_somebody_just_looked_at_is_left_alone(
    job: Job, broker: Broker, registry: KnownJobs, queued: Queued
) -> None:
    broker.register(job.run)
    first, second = (ReconcileLoop(broker, registry, turn_seconds=60) for _ in range(2))
    first.look_after_all()
    job.output.cancel(job.run)
    second.look_after_all()
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_a_job_that_cannot_be_read_is_said_once_and_does_not_hold_up_others(
    job: Job,
    make_job: MakeJob,
    broker: Broker,
    upkeep: ReconcileLoop,
    queued: Queued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = make_job(name="gone")
    broker.register(gone.run)
    broker.register(job.run)
    shutil.rmtree(gone.run.output)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            upkeep.look_after_all()
            broker.settle(job.run.job)
            broker.register(job.run)
    assert len(queued()) >= 4
    assert caplog.text.count("cannot be put right here") == 1
    assert gone.run.job in {ref.job for ref in broker.open_jobs()}  # others may see it


def test_a_repeated_submit_is_as_good_as_a_worker(
    job: Job, broker: Broker, raw: redis.Redis, queued: Queued
) -> None:
    reconcile(broker, job.output, job.run)
    raw.flushall()
    reconcile(broker, job.output, job.run)
    assert len(queued()) == 4
