"""Workers of two versions whose values differ, on one Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import TINY, write_parquet
from fleet import Fleet, Worker, until

from pipeline.output.output import find_run
from workers.broker import Broker
from workers.messages import QUEUE, queue_of

pytestmark = pytest.mark.integration

SHARD = 50
SHARDS = 12
NEWER = "import pipeline.spec\npipeline.spec.NUMERICS_VERSION = 2\n"


def test_a_job_is_run_and_finished_only_by_workers_that_compute_its_values(
    fleet: Fleet, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", SHARDS * SHARD, row_group=SHARD)
    complete, output = tmp_path / "complete", tmp_path / "out"
    assert fleet.bei("submit", corpus, "--output", complete, "--model", TINY).code == 0
    store, run = find_run(str(complete))
    store.directory.delete(run.path("manifest.json"))  # the finaliser died before it
    newer = fleet.start(NEWER)
    Broker(fleet.url).register(run)
    until(lambda: fleet.redis.llen(QUEUE), "the newer worker to have it finished by another")
    for _ in range(2):  # rounds of its reconcile loop: the request is not repeated
        until(lambda: fleet.redis.exists(f"bei:turn:{run.job}"))
        until(lambda: not fleet.redis.exists(f"bei:turn:{run.job}"))
    assert (fleet.redis.llen(QUEUE), fleet.redis.llen(queue_of(2))) == (1, 0)
    assert not store.directory.exists(run.path("manifest.json"))
    assert Broker(fleet.url).workers() == []  # none that could run a job of this version

    fleet.submit(corpus, "--output", output, "--rows-per-shard", SHARD)
    until(lambda: newer.remembers() == 2, "the newer worker to reconcile both")
    able = fleet.start()
    for each in (complete, output):
        fleet.finish(each)
        fleet.check(each, SHARDS * SHARD)
    assert taken(able) >= SHARDS
    assert taken(newer) == 0
    until(lambda: newer.remembers() == 0, "the newer worker to see that both ended")


def taken(worker: Worker) -> int:
    """Messages that a worker took from its queue."""
    return worker.log.count("Task bei.run_shard[")
