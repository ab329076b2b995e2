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


def test_a_job_is_offered_only_to_workers_that_compute_its_values(
    fleet: Fleet, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", SHARDS * SHARD, row_group=SHARD)
    newer = fleet.start(NEWER)
    until(lambda: newer.child())
    assert Broker(fleet.url).workers() == []  # none that could run a job of this version
    fleet.submit(corpus, "--output", tmp_path / "out", "--rows-per-shard", SHARD)
    until(lambda: newer.remembers() == 1, "the newer worker to reconcile the job")
    able = fleet.start()
    fleet.finish(tmp_path / "out")
    fleet.check(tmp_path / "out", SHARDS * SHARD)
    assert taken(able) >= SHARDS
    assert taken(newer) == 0
    assert find_run(str(tmp_path / "out"))[1].numerics == 1
    until(lambda: newer.remembers() == 0, "the newer worker to see that the job ended")


def test_a_reconciler_of_another_version_has_the_job_finished_by_its_own(
    fleet: Fleet, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", SHARD, row_group=SHARD)
    output = tmp_path / "out"
    assert fleet.bei("submit", corpus, "--output", output, "--model", TINY).code == 0
    store, run = find_run(str(output))
    store.directory.delete(run.path("manifest.json"))  # the finaliser died before it
    fleet.start(NEWER)
    Broker(fleet.url).register(run)
    until(lambda: fleet.redis.llen(QUEUE), "a request to finish it")
    for _ in range(2):  # rounds of the reconcile loop: the request is not repeated
        until(lambda: fleet.redis.exists(f"bei:turn:{run.job}"))
        until(lambda: not fleet.redis.exists(f"bei:turn:{run.job}"))
    assert fleet.redis.llen(QUEUE) == 1
    assert fleet.redis.llen(queue_of(2)) == 0
    assert not store.directory.exists(run.path("manifest.json"))
    fleet.start()
    fleet.finish(output)
    fleet.check(output, SHARD)


def taken(worker: Worker) -> int:
    """Messages that a worker took from its queue."""
    return worker.log.count("Task bei.run_shard[")
