"""Jobs that finish unattended, whatever Redis loses."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import redis
from corpora import write_parquet
from planned import ROWS, Job, MakeJob, Queued

from pipeline.output.plan import Span
from workers.broker import Broker
from workers.celery_tasks import MessageHandler
from workers.known_jobs import JobRef, KnownJobs
from workers.reconcile import reconcile
from workers.reconcile_loop import ReconcileLoop

pytestmark = pytest.mark.integration


@pytest.fixture
def reconcile_loop(broker: Broker, known_jobs: KnownJobs) -> ReconcileLoop:
    return ReconcileLoop(broker, known_jobs, turn_seconds=0.001)


def test_a_job_seen_once_outlives_a_flush(
    job: Job,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    known_jobs: KnownJobs,
    queued: Queued,
    raw: redis.Redis,
) -> None:
    broker.register(job.run)
    reconcile_loop.reconcile_all()
    raw.flushall()
    reconcile_loop.reconcile_all()
    assert len(queued()) == 4
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_a_job_that_was_only_remembered_outlives_a_flush(
    job: Job, broker: Broker, reconcile_loop: ReconcileLoop, queued: Queued, raw: redis.Redis
) -> None:
    broker.register(job.run)
    reconcile_loop.remember_open_jobs()
    raw.flushall()
    reconcile_loop.reconcile_all()
    assert len(queued()) == 4


def test_a_job_seen_before_a_restart_outlives_a_flush(
    job: Job,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    known_jobs: KnownJobs,
    queued: Queued,
    raw: redis.Redis,
) -> None:
    broker.register(job.run)
    reconcile_loop.reconcile_all()
    raw.flushall()
    ReconcileLoop(broker, KnownJobs(known_jobs._folder.parent), 0.001).reconcile_all()
    assert len(queued()) == 4


def test_a_job_that_ended_is_not_reconciled_any_more(
    job: Job,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    known_jobs: KnownJobs,
    handler: MessageHandler,
) -> None:
    broker.register(job.run)
    reconcile_loop.reconcile_all()
    for shard in range(4):
        handler.run_shard(job.message(shard))
    while known_jobs.all():
        reconcile_loop.reconcile_all()
    assert job.output.directory.exists(job.run.path("manifest.json"))
    assert broker.open_jobs() == []


def test_a_job_that_ended_elsewhere_is_not_opened_again(
    job: Job, broker: Broker, reconcile_loop: ReconcileLoop, known_jobs: KnownJobs
) -> None:
    known_jobs.add(JobRef.of(job.run))
    job.output.cancel(job.run)
    reconcile_loop.reconcile_all()
    assert (known_jobs.all(), broker.open_jobs()) == ([], [])


def test_an_output_that_is_deleted_and_submitted_again_is_done_when_its_new_plan_is(
    make_job: MakeJob,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    handler: MessageHandler,
    queued: Queued,
    tmp_path: Path,
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 4 * ROWS)
    old = make_job(corpus=corpus, limit=2 * ROWS)
    broker.register(old.run)
    reconcile_loop.reconcile_all()
    shutil.rmtree(old.run.output)
    new = make_job(corpus=corpus)
    assert (new.run.job, old.plan.parts < new.plan.parts) == (old.run.job, True)
    for shard in range(2):
        handler.run_shard(new.message(shard))
    reconcile_loop.reconcile_all()
    assert not new.output.directory.exists(new.run.path("manifest.json"))
    assert {Span(2, 1), Span(3, 1)} <= set(queued())


def test_a_job_that_another_worker_just_reconciled_is_left_alone(
    job: Job, broker: Broker, known_jobs: KnownJobs, queued: Queued
) -> None:
    broker.register(job.run)
    first, second = (ReconcileLoop(broker, known_jobs, turn_seconds=60) for _ in range(2))
    first.reconcile_all()
    job.output.cancel(job.run)
    second.reconcile_all()
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_a_job_that_cannot_be_read_is_logged_once_and_does_not_hold_up_others(
    job: Job,
    make_job: MakeJob,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    queued: Queued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = make_job(name="gone")
    broker.register(gone.run)
    broker.register(job.run)
    shutil.rmtree(gone.run.output)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            reconcile_loop.reconcile_all()
            broker.close_job(job.run.job)
            broker.register(job.run)
    assert len(queued()) >= 4
    assert caplog.text.count("cannot be reconciled") == 1
    assert gone.run.job in {ref.job for ref in broker.open_jobs()}  # others may see it


def test_a_repeated_submit_reconciles_as_a_worker_does(
    job: Job, broker: Broker, raw: redis.Redis, queued: Queued
) -> None:
    reconcile(broker, job.output, job.run)
    raw.flushall()
    reconcile(broker, job.output, job.run)
    assert len(queued()) == 4


@pytest.mark.parametrize("stored", ["null", "[]", "5", "{}", "[" * 10_000, "\xff"])
def test_a_job_whose_run_cannot_be_read_keeps_no_other_back(
    job: Job,
    make_job: MakeJob,
    broker: Broker,
    reconcile_loop: ReconcileLoop,
    queued: Queued,
    caplog: pytest.LogCaptureFixture,
    stored: str,
) -> None:
    broken = make_job(name="broken")
    for each in (broken, job):
        broker.register(each.run)
    broken.output.directory.put(broken.run.path("run.json"), stored.encode())
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            reconcile_loop.reconcile_all()
    assert len(queued()) == 4
    assert caplog.text.count(f"job {broken.run.job} cannot be reconciled") == 1
