"""One message handler, one message: what it computes, leaves alone and records."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from celery.exceptions import Reject
from corpora import TINY, write_parquet
from fixtures_redis import RedisServer
from planned import Job, MakeHandler, MakeJob

from pipeline.errors import BeiJobsError, OutputConflict, StorageError, UsageError
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.part_file import read_info
from pipeline.output.plan import Span
from pipeline.store.parquet_bytes import from_parquet
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens
from workers.broker import Broker, WorkerInfo
from workers.celery_app import make_app
from workers.celery_tasks import MessageHandler, check_version, register_tasks
from workers.device_process import DeviceThread
from workers.engine_cache import EngineCache
from workers.known_jobs import KnownJobs
from workers.messages import FINALIZE_JOB, MESSAGE_VERSION, QUEUE, RUN_SPAN, queue_of
from workers.reconcile import reconcile
from workers.settings import Settings
from workers.step_back import StepBack

pytestmark = pytest.mark.integration


def handler_of(
    settings: Settings, broker: Broker, known_jobs: KnownJobs, should_stop: Callable[[], bool]
) -> MessageHandler:
    device = DeviceThread("cpu", EngineCache(settings.cache_dir))
    step_back = StepBack("host", 1, "cpu", patience_seconds=60)
    return MessageHandler(settings, broker, known_jobs, device, step_back, should_stop)


def test_a_span_is_computed_and_its_lease_released(
    job: Job, handler: MessageHandler, raw: redis.Redis
) -> None:
    assert handler.run_shard(job.message(1, 2))
    assert job.committed == [1, 2]
    assert raw.keys("*:lease:*") == []
    assert list(job.output.directory.list(job.run.path("attempts/"))) == []


def test_a_job_says_the_format_of_its_parts(make_job: MakeJob, handler: MessageHandler) -> None:
    job = make_job(output_format="parquet")
    assert handler.run_shard(job.message(0, 4))
    assert job.committed == [0, 1, 2, 3]
    assert all(name.endswith(".parquet") for name in job.plan.parts)
    infos = [read_info(job.output.directory, shard.part) for shard in job.plan.shards()]
    assert [info.count("rows") for info in infos] == [10] * 4


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


def test_a_span_that_needs_nothing_is_harmless(
    job: Job, handler: MessageHandler, caplog: pytest.LogCaptureFixture
) -> None:
    assert handler.run_shard(job.message(3, 64))
    assert handler.run_shard(job.message(99, 1))  # beyond the plan
    assert handler.run_shard(job.message(3, 1))  # committed
    assert job.committed == [3]
    assert "steps back" not in caplog.text


def test_a_worker_that_stops_gives_the_message_back(
    job: Job, make_handler: MakeHandler, broker: Broker
) -> None:
    reconcile(broker, job.output, job.run)
    assert not make_handler(lambda: True).run_shard(job.message(0, 4))
    assert job.committed == []
    assert list(job.output.directory.list(job.run.path("attempts/"))) == []
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
    handler_of(short, broker, known_jobs, wait_for_a_renewal).run_shard(job.message(0, 4))
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


def test_a_checkpoint_that_differs_here_makes_the_worker_step_back(
    make_job: MakeJob,
    handler: MessageHandler,
    broker: Broker,
    tmp_path: Path,
    raw: redis.Redis,
    device: DeviceThread,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    job = make_job(model=str(model))
    reconcile(broker, job.output, job.run)
    waiting = raw.llen(QUEUE)
    config = model / "sentence_bert_config.json"
    config.write_text('{"max_seq_length": 5}')
    broker.heartbeat(WorkerInfo("host", 1, "1", ("cpu",), "now"), 60)
    assert handler.run_shard(job.message(1, 2))
    assert job.output.failures(job.run) == {}
    (refusal,) = broker.refusals(job.run.job)
    assert "was submitted with" in refusal.reason
    assert refusal.hint
    assert not refusal.final
    assert raw.llen(QUEUE) == waiting + 1  # handed on to others
    assert (device.counters.step_backs, device.counters.shards_done) == (1, 0)
    config.unlink()
    shutil.copytree(TINY, model, dirs_exist_ok=True)
    handler.run_shard(job.message(1, 2))
    assert job.committed == [1, 2]
    assert broker.refusals(job.run.job) == []
    assert (device.counters.step_backs, device.counters.shards_done) == (1, 2)


def test_a_broken_shard_is_written_down_and_its_neighbours_are_computed(
    make_job: MakeJob, handler: MessageHandler, tmp_path: Path
) -> None:
    corpora = tmp_path / "corpora"
    for name in ("a", "b", "c"):
        write_parquet(corpora / f"{name}.parquet", 10)
    job = make_job(corpus=corpora)
    damage(corpora / "b.parquet")
    for shard in (0, *[1] * MAX_ATTEMPTS, 2):  # looked at again before it counts as changed
        handler.run_shard(job.message(shard))
    assert job.committed == [0, 2]
    (failure,) = job.output.failures(job.run).values()
    assert "b.parquet" in failure.error


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)


def test_a_row_that_raises_is_quarantined_and_costs_nothing_else(
    job: Job, handler: MessageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = TextTokenizer.encode_column
    (guilty,) = texts_of(job, [13])

    def raising(self: TextTokenizer, column: pa.Array, prompt: str = "") -> Tokens:
        if guilty in column.to_pylist():
            raise MemoryError("no room")
        return encode(self, column, prompt)

    monkeypatch.setattr(TextTokenizer, "encode_column", raising)
    assert handler.run_shard(job.message(0, 4))
    assert job.committed == [0, 1, 2, 3]
    assert job.output.failures(job.run) == {}
    infos = [read_info(job.output.directory, shard.part) for shard in job.plan.shards()]
    assert [info.count("failed") for info in infos] == [0, 1, 0, 0]
    (name,) = (item.name for item in job.output.directory.list("_bei/quarantine/"))
    (row,) = from_parquet(job.output.directory.read(name)).to_pylist()
    assert (row["bei_row"], row["bei_error"]) == (13, "raised MemoryError: no room")


def texts_of(job: Job, rows: list[int]) -> list[str]:
    texts = pq.read_table(job.run.inputs[0])["text"].to_pylist()
    return [texts[row] for row in rows]


@pytest.mark.parametrize("kind", [StorageError, UsageError])  # the latter: options it refuses
def test_a_store_that_cannot_be_reached_costs_no_attempt(
    job: Job, handler: MessageHandler, monkeypatch: pytest.MonkeyPatch, kind: type[BeiJobsError]
) -> None:
    def refuse(*_: object) -> None:
        raise kind("the bucket is on fire")

    with monkeypatch.context() as broken:
        broken.setattr(Output, "commit", refuse)
        assert handler.run_shard(job.message(0, 2))
    assert list(job.output.directory.list(job.run.path("failures/"))) == []
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

    handler = handler_of(settings, Broker(server.url), known_jobs, stop_redis_once)
    handler.run_shard(job.message(0, 4))
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
    assert "steps back" in caplog.text
    assert "results differ" in caplog.text


def test_an_output_that_this_worker_cannot_see_is_no_failure_of_the_job(
    job: Job, handler: MessageHandler
) -> None:
    elsewhere = replace(job.message(), output="/nowhere/to/be/seen")
    assert handler.run_shard(elsewhere)
    assert job.output.failures(job.run) == {}


def test_a_message_under_another_job_id_is_not_run(
    job: Job, handler: MessageHandler, caplog: pytest.LogCaptureFixture
) -> None:
    assert handler.run_shard(replace(job.message(), job="0123456789ab"))
    assert job.committed == []
    assert "bei-jobs does not send such a message" in caplog.text


def test_a_newer_message_moves_to_the_newer_queue(
    make_handler: MakeHandler, redis_url: str, raw: redis.Redis
) -> None:
    app = make_app(redis_url)
    handler = make_handler()
    register_tasks(app, lambda: handler)
    app.tasks[RUN_SPAN](v=MESSAGE_VERSION + 1, more="than we know")
    assert raw.llen(QUEUE) == 0
    assert raw.llen(queue_of(1, MESSAGE_VERSION + 1)) == 1


def test_a_message_without_sense_is_dropped(
    make_handler: MakeHandler, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(redis_url)
    handler = make_handler()
    register_tasks(app, lambda: handler)
    app.tasks[RUN_SPAN](n="1")
    assert "dropped" in caplog.text
