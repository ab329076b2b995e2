"""A consumer that consumes nothing is replaced; one that is busy, idle or without Redis is not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import redis
from corpora import write_parquet
from fixtures_redis import RedisServer
from fleet import Fleet, until

from pipeline.output.run import job_id
from workers.known_jobs import JobRef

pytestmark = pytest.mark.integration

SHARD = 50
SHARDS = 4

# Its first consumer takes one message, and then never asks Redis for another.
DEAF = """
import os, pathlib
from kombu.transport.redis import Channel

deaf = pathlib.Path(os.environ["BEI_JOBS_STATE_DIR"]) / "deaf"
start, read = Channel._brpop_start, Channel._brpop_read
mine = False

def ask(self, *args, **kwargs):
    return None if mine else start(self, *args, **kwargs)

def take(self, *args, **kwargs):
    global mine
    done = read(self, *args, **kwargs)
    if done and not deaf.exists():
        deaf.parent.mkdir(parents=True, exist_ok=True)
        deaf.touch()
        mine = True
    return done

Channel._brpop_start, Channel._brpop_read = ask, take
"""

# Its first span takes long.
LONG_SECONDS = 4.0
SLOW = f"""
import time
from workers.shard_runner import ShardRunner

compute, slept = ShardRunner.compute, False

def compute_slowly(*args):
    global slept
    if not slept:
        slept = True
        time.sleep({LONG_SECONDS})
    yield from compute(*args)

ShardRunner.compute = compute_slowly
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", SHARDS * SHARD, row_group=SHARD)


def submit(fleet: Fleet, corpus: Path, output: Path) -> str:
    return fleet.submit(corpus, "--output", output, "--rows-per-shard", SHARD)


def finish(fleet: Fleet, corpus: Path, output: Path) -> None:
    submit(fleet, corpus, output)
    fleet.finish(output)
    fleet.check(output, SHARDS * SHARD)


def connected(fleet: Fleet) -> bool:
    """Whether a consumer waits for messages."""
    return any(client["cmd"] == "brpop" for client in fleet.redis.client_list())


def test_a_consumer_that_takes_no_messages_is_replaced_whatever_the_reason(
    fleet: Fleet, corpus: Path, tmp_path: Path
) -> None:
    worker = fleet.start(DEAF, BEI_JOBS_SILENCE_SECONDS="2")
    finish(fleet, corpus, tmp_path / "out")
    assert worker.log.count("took no message though a device of it was free") == 1
    until(lambda: connected(fleet))
    stopped = worker.consumer
    with a_store_that_never_answers(fleet, tmp_path / "never"):
        stopped.suspend()
        until(lambda: worker.log.count("the consumer is killed: its event loop has stood") == 1)
        until(lambda: not stopped.is_running())
    finish(fleet, corpus, tmp_path / "another")
    assert worker.terminate() == 0


@pytest.mark.skipif(os.environ.get("CHAOS") != "all", reason="half a minute: scripts/chaos matrix")
def test_a_consumer_that_is_busy_or_idle_or_without_redis_is_left_alone(
    fleet: Fleet, server: RedisServer, corpus: Path, tmp_path: Path
) -> None:
    silence = 2.5
    worker = fleet.start(SLOW, BEI_JOBS_SILENCE_SECONDS=str(silence))
    started = time.monotonic()
    finish(fleet, corpus, tmp_path / "long")
    assert time.monotonic() - started > LONG_SECONDS > silence
    consumer = worker.consumer.pid

    wait(2 * silence)  # idle
    server.freeze()
    wait(1.5 * silence)
    server.thaw()
    finish(fleet, corpus, tmp_path / "frozen")

    assert "is killed" not in worker.log, worker.log
    assert "the consumer ended" not in worker.log
    assert worker.consumer.pid == consumer

    # From here on it may be replaced: Celery pauses between its tries for longer than `silence`.
    for _ in range(40):
        kill_connections(server)
        wait(0.05)
    client = server.client()
    client.config_set("requirepass", "sesame")
    client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: "refuses the user or password" in worker.log)
    client.config_set("requirepass", "")
    finish(fleet, corpus, tmp_path / "refused")


@contextmanager
def a_store_that_never_answers(fleet: Fleet, output: Path) -> Iterator[None]:
    """Have the worker's parent read a pipe, in place of a run, while the context is open."""
    pipe = output / "_bei/runs/1/run.json"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    job = job_id(str(output), 1)
    ref = JobRef(job, str(output), 1, "2024-01-01T00:00:00Z")
    fleet.redis.hset("bei:jobs", job, json.dumps(asdict(ref)))
    fleet.redis.sadd("bei:open", job)
    writer = until(lambda: opened(pipe), "the parent to read")
    try:
        yield
    finally:
        os.close(writer)


def opened(pipe: Path) -> int | None:
    """The end to write to; None while nobody reads."""
    with suppress(OSError):
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return None


def wait(seconds: float) -> None:
    """Let time pass, which is what these tests are about."""
    time.sleep(seconds)


def kill_connections(server: RedisServer) -> None:
    with suppress(redis.RedisError):
        server.client().client_kill_filter(_type="normal", skipme=True)
