"""Reconciling a job: from anywhere, at any time, any number of times."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import redis
from corpora import write_parquet
from planned import Job, MakeJob, Queued

from pipeline.output.output import MAX_ATTEMPTS
from pipeline.output.plan import Span
from pipeline.output.status import job_status
from pipeline.shards import ShardResult
from workers import reconcile as module
from workers.broker import Broker, WorkerInfo
from workers.celery_tasks import MessageHandler
from workers.messages import QUEUE
from workers.reconcile import reconcile
from workers.step_back import Refusal

pytestmark = pytest.mark.integration


def singles(*shards: int) -> list[Span]:
    return [Span(i, 1) for i in shards]


def forget_what_was_sent(raw: redis.Redis, job: str) -> None:
    raw.delete(QUEUE, f"bei:job:{job}:sent")


def fail(job: Job, shard: int, *, transient: bool = False, attempt: str = "a") -> None:
    planned = job.plan.shard(shard)
    result = ShardResult(
        planned.id, planned.part, planned.rows, error=f"{planned}: broken", hint="fix the file",
        transient=transient,
    )  # fmt: skip
    job.output.record_failure(job.run, result, attempt)


def test_a_new_job_is_sent_whole_and_once(job: Job, broker: Broker, queued: Queued) -> None:
    first = reconcile(broker, job.output, job.run)
    again = reconcile(broker, job.output, job.run)
    assert queued() == singles(0, 1, 2, 3)
    assert (first.state, first.sent, first.outstanding) == ("queued", 4, 4)
    assert (again.sent, again.outstanding) == (0, 4)
    assert [ref.job for ref in broker.open_jobs()] == [job.run.job]


def test_many_at_once_send_each_span_once(job: Job, broker: Broker, queued: Queued) -> None:
    start = threading.Barrier(6)

    def reconcile_once() -> None:
        own_broker = Broker(broker.url, patience_seconds=60)
        start.wait()
        reconcile(own_broker, job.output, job.run)

    threads = [threading.Thread(target=reconcile_once) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(queued(), key=lambda span: span.start) == singles(0, 1, 2, 3)


def test_after_redis_lost_everything_only_missing_shards_are_sent(
    job: Job, broker: Broker, handler: MessageHandler, queued: Queued, raw: redis.Redis
) -> None:
    reconcile(broker, job.output, job.run)
    handler.run_shard(job.message(1))
    raw.flushall()
    reconciled = reconcile(broker, job.output, job.run)
    assert queued() == singles(0, 2, 3)
    assert (reconciled.state, reconciled.done) == ("running", 1)


def test_a_leased_span_is_not_sent_and_a_dropped_one_is(
    job: Job, broker: Broker, queued: Queued, raw: redis.Redis
) -> None:
    impatient = Broker(broker.url, patience_seconds=0.0)
    reconcile(impatient, job.output, job.run)
    raw.delete(QUEUE)  # popped by workers: one is at it, the others died before they began
    with broker.ledger(job.run.job) as ledger:
        ledger.lease(Span(2, 1), "worker", 60).take()
    reconcile(impatient, job.output, job.run)
    assert queued() == singles(0, 1, 3)


def test_what_waits_behind_other_jobs_is_not_sent_again(
    job: Job, make_job: MakeJob, broker: Broker, queued: Queued
) -> None:
    other = make_job(name="other")
    impatient = Broker(broker.url, patience_seconds=0.01)
    reconcile(impatient, other.output, other.run)
    reconcile(impatient, job.output, job.run)
    for _ in range(3):
        reconcile(impatient, job.output, job.run)
    assert len(queued()) == 8


def test_no_more_spans_than_allowed_are_outstanding(
    make_job: MakeJob,
    broker: Broker,
    handler: MessageHandler,
    queued: Queued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_OUTSTANDING_SPANS", 3)
    job = make_job(shards=7)
    reconcile(broker, job.output, job.run)
    assert queued() == singles(0, 1, 2)
    handler.run_shard(job.message(0))
    assert reconcile(broker, job.output, job.run).outstanding == 3
    assert queued() == singles(0, 1, 2, 3)


def test_a_complete_job_is_finished_by_any_process_that_reconciles_it(
    job: Job, broker: Broker, handler: MessageHandler
) -> None:
    reconcile(broker, job.output, job.run)
    for shard in range(4):
        handler.run_shard(job.message(shard))
    states = [reconcile(broker, job.output, job.run).state for _ in range(2)]
    assert states == ["done", "done"]
    assert job_status(job.output, job.run).rows_done == 40
    assert broker.open_jobs() == []


def test_a_shard_that_failed_for_good_is_not_sent_and_fails_the_job_at_the_end(
    job: Job, broker: Broker, handler: MessageHandler, queued: Queued
) -> None:
    fail(job, 1)
    assert reconcile(broker, job.output, job.run).state == "queued"
    assert queued() == singles(0, 2, 3)
    for shard in (0, 2, 3):
        handler.run_shard(job.message(shard))
    reconciled = reconcile(broker, job.output, job.run)
    assert (reconciled.state, reconciled.done, reconciled.failed) == ("failed", 3, 1)
    status = job_status(job.output, job.run)
    assert "1 of 4 shards failed" in status.reason
    assert "rows 10-19: broken" in status.reason
    assert status.hint == "fix the file"
    assert broker.open_jobs() == []


def test_a_shard_that_failed_transiently_is_sent_until_its_attempts_are_used_up(
    job: Job, broker: Broker, queued: Queued, raw: redis.Redis
) -> None:
    for attempt in range(MAX_ATTEMPTS):
        reconcile(broker, job.output, job.run)
        assert Span(1, 1) in queued()
        fail(job, 1, transient=True, attempt=str(attempt))
        forget_what_was_sent(raw, job.run.job)
    reconcile(broker, job.output, job.run)
    assert Span(1, 1) not in queued()


def refuse(broker: Broker, job: Job, host: str, *, final: bool, device: str = "cpu") -> None:
    broker.refuse(job.run.job, Refusal(host, 7, device, f"no disk on {host}", "buy", 9.0, final))


def test_a_job_fails_once_every_live_worker_has_refused_it_for_good(
    job: Job, broker: Broker
) -> None:
    for host in ("a", "b"):
        broker.heartbeat(WorkerInfo(host, 7, "1", ("cpu",), "now"), 60)
    refuse(broker, job, "a", final=True)
    assert not reconcile(broker, job.output, job.run).final
    refuse(broker, job, "b", final=False)  # it still tries
    assert not reconcile(broker, job.output, job.run).final
    refuse(broker, job, "gone", final=True)
    refuse(broker, job, "b", final=True)
    assert reconcile(broker, job.output, job.run).state == "failed"
    failed = job.output.failed(job.run)
    assert failed is not None
    assert "a (cpu): no disk on a" in failed["reason"]
    assert "b (cpu): no disk on b" in failed["reason"]
    assert "gone" not in failed["reason"]
    assert failed["hint"].startswith("buy")
    assert broker.refusals(job.run.job) == []


def test_a_worker_with_one_device_left_may_still_run_a_job(job: Job, broker: Broker) -> None:
    broker.heartbeat(WorkerInfo("a", 7, "1", ("cuda:0", "cuda:1"), "now"), 60)
    refuse(broker, job, "a", final=True, device="cuda:1")
    assert not reconcile(broker, job.output, job.run).final


def test_without_a_worker_a_job_waits(job: Job, broker: Broker) -> None:
    refuse(broker, job, "gone", final=True)
    assert broker.refusals(job.run.job) == []
    assert not reconcile(broker, job.output, job.run).final


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"host": 1}', "[" * 10**5])
def test_what_no_worker_wrote_refuses_nothing(
    job: Job, broker: Broker, raw: redis.Redis, text: str
) -> None:
    raw.hset(f"bei:job:{job.run.job}:stepped_back", "x", text)
    assert broker.refusals(job.run.job) == []
    assert not reconcile(broker, job.output, job.run).final


def test_a_job_is_given_up_early_when_nothing_of_it_succeeds(
    make_job: MakeJob, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOPELESS_SHARDS", 3)
    job = make_job(shards=8)
    for shard in (0, 1):
        fail(job, shard)
    assert reconcile(broker, job.output, job.run).state == "queued"
    fail(job, 2)
    assert reconcile(broker, job.output, job.run).state == "failed"


def test_too_many_failed_rows_fail_the_job(
    make_job: MakeJob, broker: Broker, handler: MessageHandler, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "nulls.parquet", 20, text=["fine", None] * 10)
    job = make_job(corpus=corpus, max_failed_rows="9")
    for shard in range(2):
        handler.run_shard(job.message(shard))
    assert reconcile(broker, job.output, job.run).state == "failed"
    assert "10 of 20 rows failed" in job_status(job.output, job.run).reason


def test_a_cancelled_job_is_left_alone(job: Job, broker: Broker, queued: Queued) -> None:
    job.output.cancel(job.run)
    assert reconcile(broker, job.output, job.run).state == "cancelled"
    assert queued() == []


def test_a_run_that_a_later_one_replaced_is_cancelled(
    make_job: MakeJob, broker: Broker, queued: Queued, tmp_path: Path
) -> None:
    old = make_job(name="corpus")
    new = make_job(shards=6, name="corpus")
    assert new.run.n == old.run.n + 1
    assert reconcile(broker, old.output, old.run).state == "cancelled"
    assert job_status(old.output, old.run).final
    assert queued() == []
    assert reconcile(broker, new.output, new.run).state == "queued"


def test_a_retried_job_starts_with_all_its_attempts(
    job: Job, broker: Broker, handler: MessageHandler, queued: Queued
) -> None:
    for shard in (0, 2, 3):
        handler.run_shard(job.message(shard))
    fail(job, 1)
    assert reconcile(broker, job.output, job.run).state == "failed"
    job.output.forget_failures(job.run)
    assert reconcile(broker, job.output, job.run).sent == 1


def test_messages_are_published_after_a_flush_on_the_same_broker(
    make_job: MakeJob, broker: Broker, queued: Queued, raw: redis.Redis
) -> None:
    job = make_job()
    reconcile(broker, job.output, job.run)
    raw.flushall()
    reconcile(broker, job.output, job.run)
    assert len(queued()) == 4
