"""Jobs that finish unaided whatever happens to workers, messages and Redis."""

from __future__ import annotations

import json
import re
import signal
import threading
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei
from corpora import TINY, parts, write_parquet
from fixtures_redis import RedisServer
from fleet import Fleet, until

from pipeline.output.manifest import read_parts
from pipeline.output.output import find_run
from workers.celery_app import make_app, send
from workers.messages import MESSAGE_VERSION, QUEUE, RUN_SPAN, queue_of

pytestmark = pytest.mark.integration

# Takes the tiny model a second or two: time to act in the middle of it.
SLOW_SHARD = 2000
QUICK_SHARD = 50


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Four shards that each take a while."""
    return write_parquet(tmp_path / "slow.parquet", 4 * SLOW_SHARD, row_group=SLOW_SHARD)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Twelve shards that take no time."""
    return write_parquet(tmp_path / "quick.parquet", 12 * QUICK_SHARD, row_group=QUICK_SHARD)


def submit_slow(fleet: Fleet, slow: Path, output: object) -> str:
    return fleet.submit(slow, "--output", output, "--rows-per-shard", SLOW_SHARD)


def submit_quick(fleet: Fleet, quick: Path, output: Path) -> str:
    return fleet.submit(quick, "--output", output, "--rows-per-shard", QUICK_SHARD)


def test_jobs_finish_after_a_worker_was_killed_and_redis_forgot_everything(
    fleet: Fleet, slow: Path, quick: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    doomed = fleet.start()
    job = submit_slow(fleet, slow, first)
    until(lambda: fleet.leases(job), "a span under way")
    until(lambda: fleet.state(first) == "running", "the store alone to say so")
    doomed.kill()
    assert len(parts(first)) < 4  # it died in the middle of the job
    survivor = fleet.start()
    submit_quick(fleet, quick, second)
    until(lambda: survivor.remembers() == 2, "the survivor to know both jobs")
    until(lambda: fleet.leases(job), "a span under way again")
    assert fleet.redis.llen(QUEUE) > 0
    fleet.redis.flushall()
    fleet.finish(first)
    fleet.finish(second)
    fleet.check(first, 4 * SLOW_SHARD)
    fleet.check(second, 12 * QUICK_SHARD)


def test_workers_copy_the_rows_that_earlier_parts_hold(
    fleet: Fleet, quick: Path, bei: Bei, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    fleet.start()
    submit_quick(fleet, quick, output)
    fleet.finish(output)
    table = pq.read_table(quick)
    text = [*table["text"].to_pylist()[:-1], "a new text"]
    pq.write_table(table.set_column(1, "text", pa.array(text)), quick, row_group_size=QUICK_SHARD)

    submit_quick(fleet, quick, output)

    fleet.finish(output)
    until(lambda: len(parts(output)) == 12, "the earlier parts to be swept")
    fleet.check(output, 12 * QUICK_SHARD)
    rows = bei("status", output, "--json").json["rows"]
    assert (rows["computed"], rows["reused"]) == (1, 12 * QUICK_SHARD - 1)


def test_a_worker_told_to_stop_returns_its_span_and_another_resumes(
    fleet: Fleet, slow: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first = fleet.start()
    job = submit_slow(fleet, slow, output)
    until(lambda: fleet.leases(job), "a span under way")
    assert first.terminate() == 0
    assert not re.search("WARNING|ERROR|Traceback", first.log), first.log
    assert "goes back to the queue" in first.log
    assert fleet.leases(job) == []
    waiting = [json.loads(text) for text in fleet.redis.lrange(QUEUE, 0, -1)]
    assert sum(message["headers"].get("redelivered", False) for message in waiting) == 1
    assert len(waiting) + len(parts(output)) == 4
    assert set(fleet.redis.hvals(f"bei:job:{job}:crashes")) <= {b"0"}  # stopping is no crash
    fleet.start()
    fleet.finish(output)
    fleet.check(output, 4 * SLOW_SHARD)


def test_a_second_signal_does_not_wait_for_the_batch(
    fleet: Fleet, slow: Path, tmp_path: Path
) -> None:
    worker = fleet.start()
    job = submit_slow(fleet, slow, tmp_path / "out")
    until(lambda: fleet.leases(job), "a span under way")
    child = worker.child()
    child.suspend()  # a batch that never ends
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping after this batch" in worker.log)
    assert worker.terminate() == 1
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_consumer_whose_parent_was_killed_stops_by_itself(
    fleet: Fleet, slow: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    worker = fleet.start()
    job = submit_slow(fleet, slow, output)
    until(lambda: fleet.leases(job), "a span under way")
    consumer = worker.consumer
    worker.process.kill()
    worker.process.wait()
    until(lambda: not consumer.is_running(), "the consumer to stop")
    assert len(parts(output)) < 4
    assert fleet.redis.llen(QUEUE) + len(parts(output)) == 4


def test_a_shard_that_kills_its_process_fails_alone(fleet: Fleet, tmp_path: Path) -> None:
    output, rows, poisoned = tmp_path / "out", 600, 2
    corpus = write_parquet(tmp_path / "corpus.parquet", 5 * rows, row_group=rows)
    worker = fleet.start()
    job = fleet.submit(corpus, "--output", output, "--rows-per-shard", rows)
    over = threading.Event()
    killer = threading.Thread(
        target=kill_processes_that_run, args=(fleet, str(output), job, poisoned, over)
    )
    killer.start()
    try:
        failed = until(lambda: failure(output), "the job to fail")
    except AssertionError:
        print(fleet.logs())
        raise
    finally:
        over.set()
        killer.join()
    assert "1 of 5 shards failed" in failed["reason"], fleet.logs()
    assert "rows 1200-1799" in failed["reason"]
    assert "died 5 times" in failed["reason"]
    assert len(parts(output)) == 4
    assert worker.process.poll() is None
    assert fleet.bei("retry", output, "--broker", fleet.url).code == 0
    fleet.finish(output)
    fleet.check(output, 5 * rows)


def kill_processes_that_run(
    fleet: Fleet, output: str, job: str, shard: int, over: threading.Event
) -> None:
    """SIGKILL, again and again, to the process that leases `shard` and has begun with it."""
    client, seen = fleet.redis, set[str]()
    store, run = find_run(output)
    while not over.wait(0.002):
        owner = client.get(f"bei:job:{job}:lease:{shard}+1")
        begun = {item.name for item in store.directory.list(run.path("attempts/"))} - seen
        if owner and begun:
            seen |= begun
            try:
                psutil.Process(int(owner.decode().split(":")[1])).kill()
            except psutil.NoSuchProcess:
                continue


def failure(output: Path) -> dict[str, str] | None:
    store, run = find_run(str(output))
    return store.failed(run)


def test_a_cancelled_job_stops_in_the_middle_of_a_span(
    fleet: Fleet, slow: Path, quick: Path, tmp_path: Path
) -> None:
    worker = fleet.start()
    job = submit_slow(fleet, slow, tmp_path / "out")
    until(lambda: fleet.leases(job), "a span under way")
    assert fleet.bei("cancel", job, "--broker", fleet.url).code == 0
    until(lambda: not fleet.leases(job), "the span to stop")
    committed = parts(tmp_path / "out")
    assert len(committed) < 4
    # The waiting messages are dropped, and the worker continues with other jobs.
    submit_quick(fleet, quick, tmp_path / "next")
    fleet.finish(tmp_path / "next")
    assert parts(tmp_path / "out") == committed
    until(lambda: worker.remembers() == 0, "the worker to forget both jobs")


def test_bytes_that_are_not_a_message_do_not_end_a_worker(
    fleet: Fleet, quick: Path, tmp_path: Path
) -> None:
    worker = fleet.start()
    worker.child()
    fleet.redis.lpush(QUEUE, b"\xff\xfe not JSON", b"{}", b"[1, 2]", b'"text"', b"null")
    submit_quick(fleet, quick, tmp_path / "out")
    fleet.finish(tmp_path / "out")
    fleet.check(tmp_path / "out", 12 * QUICK_SHARD)
    assert worker.process.poll() is None
    assert "the consumer ended" not in worker.log


def test_a_message_of_a_newer_version_is_kept_for_newer_workers(
    fleet: Fleet, quick: Path, tmp_path: Path
) -> None:
    newer = {"v": MESSAGE_VERSION + 1, "shape": ["of", "things", "to", "come"]}
    send(make_app(fleet.url), RUN_SPAN, [newer], QUEUE)
    worker = fleet.start()
    waiting = queue_of(1, MESSAGE_VERSION + 1)
    until(lambda: fleet.redis.llen(waiting), "the message in the newer queue")
    # The worker moves it out of its own queue, and continues with messages that it understands.
    submit_quick(fleet, quick, tmp_path / "out")
    fleet.finish(tmp_path / "out")
    (kept,) = fleet.redis.lrange(waiting, 0, -1)
    _, kwargs, _ = json.loads(b64decode(json.loads(kept)["body"]))
    assert kwargs == newer
    assert "upgrade this worker" in worker.log


def test_a_job_finishes_across_a_restart_of_a_redis_that_keeps_nothing(
    fleet: Fleet, server: RedisServer, slow: Path, tmp_path: Path
) -> None:
    worker = fleet.start()
    job = submit_slow(fleet, slow, tmp_path / "out")
    until(lambda: fleet.leases(job) and worker.remembers(), "a span under way")
    server.kill()
    until(lambda: "cannot be reached" in worker.log, "the worker to notice")
    server.start()
    fleet.finish(tmp_path / "out")
    fleet.check(tmp_path / "out", 4 * SLOW_SHARD)
    assert "is back" in worker.log


def test_a_worker_whose_span_ends_while_redis_is_away_takes_the_next_one_afterwards(
    fleet: Fleet, server: RedisServer, slow: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    worker = fleet.start()
    job = submit_slow(fleet, slow, out)
    until(lambda: fleet.leases(job) and worker.remembers(), "a span that is held")
    # Before its device is ready, a span that cannot ask Redis is not begun.
    until(lambda: list(out.glob("_bei/runs/1/canary-*.json")), "a span under way")
    before = len(parts(out))
    server.kill()
    until(lambda: len(parts(out)) > before, "a commit while Redis is away")
    until(lambda: "Couldn't ack" in worker.log or "Connection to broker lost" in worker.log)
    server.start()
    fleet.finish(out)
    fleet.check(out, 4 * SLOW_SHARD)


def test_two_workers_on_an_object_store_give_what_one_process_gives(
    fleet: Fleet, s3: Any, slow: Path, tmp_path: Path
) -> None:
    output = f"s3://{s3.make_bucket()}/vectors"
    workers = [fleet.start(), fleet.start()]
    job = submit_slow(fleet, slow, output)
    until(lambda: len(fleet.leases(job)) == 2, "both at work")
    fleet.finish(output)
    fleet.check(output, 4 * SLOW_SHARD)
    committed = [worker.log.count("DEBUG job") for worker in workers]
    assert all(committed), committed
    local = tmp_path / "local"
    assert (
        fleet.bei("submit", slow, "--output", local, "--model", TINY, "--device", "cpu").code == 0
    )
    one, other = rows_of(local), rows_of(output)
    assert one["id"].equals(other["id"])
    assert one["id"].to_pylist() == pq.read_table(slow)["id"].to_pylist()
    one_vectors, other_vectors = (matrix(table["embedding"]) for table in (one, other))
    np.testing.assert_allclose(one_vectors, other_vectors, rtol=0, atol=1e-6)


def rows_of(output: object) -> pa.Table:
    """All rows in input order, from any store."""
    store, run = find_run(str(output))
    tables = []
    for name in read_parts(store, run)["part"].to_pylist():
        table = pa.ipc.open_file(store.directory.read(name)).read_all()
        tables.append(table.replace_schema_metadata(None))
    return pa.concat_tables(tables)


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.stack(column.to_numpy(zero_copy_only=False))


def test_a_worker_refuses_to_start_without_its_broker(bei: Bei) -> None:
    done = bei("worker", "--broker", "redis://:secret@127.0.0.1:1/0", "--device", "cpu")
    assert done.code == 1
    assert "redis://127.0.0.1:1/0 cannot be reached" in done.err
    assert "secret" not in done.err
