"""A planned job on a real Redis, and the message handler that would run it, in this process."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from corpora import TINY, write_parquet
from planned import ROWS, Job, MakeHandler, MakeJob, Queued

from pipeline.output.plan import Span
from pipeline.planning.prepare import prepare
from pipeline.request import Request
from workers.broker import Broker
from workers.celery_tasks import MessageHandler
from workers.device_process import DeviceThread
from workers.engine_cache import EngineCache
from workers.known_jobs import KnownJobs
from workers.messages import QUEUE, read_message
from workers.settings import Settings
from workers.step_back import StepBack


@pytest.fixture(scope="session", autouse=True)
def one_thread(one_thread: None) -> None:
    """For every test here."""


@pytest.fixture
def settings(tmp_path: Path, checkpoint_cache: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", cache_dir=checkpoint_cache)


@pytest.fixture
def broker(redis_url: str) -> Broker:
    """Patient enough that no message of a test counts as lost, unless the test says so."""
    return Broker(redis_url, patience_seconds=60)


@pytest.fixture
def raw(redis_url: str) -> redis.Redis:
    """The same Redis, through its own client."""
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
def make_job(tmp_path: Path, settings: Settings) -> MakeJob:
    """Plan a job of `shards` shards over a new corpus; `options` as of `submit`."""

    def make(shards: int = 4, *, name: str = "corpus", **options: Any) -> Job:
        corpus = options.pop("corpus", None)
        corpus = corpus or write_parquet(tmp_path / f"{name}.parquet", shards * ROWS)
        request = {"model": TINY, "output": str(tmp_path / f"{name}-out"), "rows_per_shard": ROWS}
        prepared = prepare(
            Request(inputs=(str(corpus),), **{**request, **options}), settings.cache_dir
        )
        return Job(prepared.output, prepared.run, prepared.plan)

    return make


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job()


@pytest.fixture
def known_jobs(settings: Settings) -> KnownJobs:
    return KnownJobs(settings.state_dir)


@pytest.fixture
def device(settings: Settings) -> DeviceThread:
    """The CPU, in a thread of this process."""
    return DeviceThread("cpu", EngineCache(settings.cache_dir))


@pytest.fixture
def make_handler(
    settings: Settings, broker: Broker, known_jobs: KnownJobs, device: DeviceThread
) -> MakeHandler:
    """A message handler on the CPU; `should_stop` is called before each batch."""

    def make(should_stop: Callable[[], bool] = lambda: False) -> MessageHandler:
        step_back = StepBack("host", 1, "cpu", patience_seconds=60)
        return MessageHandler(settings, broker, known_jobs, device, step_back, should_stop)

    return make


@pytest.fixture
def handler(make_handler: MakeHandler) -> MessageHandler:
    return make_handler()


@pytest.fixture
def queued(raw: redis.Redis) -> Queued:
    """The spans whose messages wait in the queue, in the order in which they are taken."""

    def look() -> list[Span]:
        spans = []
        for text in reversed(raw.lrange(QUEUE, 0, -1)):
            _, kwargs, _ = json.loads(b64decode(json.loads(text)["body"]))
            spans.append(read_message(kwargs).span)
        return spans

    return look
