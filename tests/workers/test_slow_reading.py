"""A device's process that reads slowly is left alone; one whose reading hangs is killed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prepared import prepared_run
from slow_reading import HANGS, STEP_SECONDS, STEPS, serve_slowly

from pipeline.planning.prepare import Prepared
from workers.device_main import Order
from workers.device_process import DeviceDied, DeviceProcess

BATCH_SECONDS = 1.5


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceProcess]:
    monkeypatch.setattr("workers.device_process.serve", serve_slowly)
    monkeypatch.setattr("workers.device_process._LOADING_BATCHES", 100)
    device = DeviceProcess("cpu", tmp_path / "cache", BATCH_SECONDS)
    yield device
    device.kill()


def job_of(folder: Path, name: str) -> Prepared:
    """Two shards of a compressed file, which is read from its start whichever of them is wanted."""
    letters = random.Random(0)
    text = [f"{letters.getrandbits(400):x}" for _ in range(400)]
    lines = (json.dumps({"id": str(row), "text": each}) for row, each in enumerate(text))
    path = folder / name
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return prepared_run(folder, path, rows_per_shard=200)


def test_reading_that_takes_longer_than_a_batch_may_is_left_to_end(
    tmp_path: Path, device: DeviceProcess
) -> None:
    assert STEPS * STEP_SECONDS > 2 * BATCH_SECONDS
    job = job_of(tmp_path, "c.jsonl.gz")
    events = list(device.run(Order(job.output.uri, job.run.n, [1]), lambda: False))
    results = [value for kind, value in events if kind == "result"]
    assert [(one.part, one.error) for one in results] == [(job.plan.shard(1).part, "")]
    assert device.counters.deaths == 0


def test_reading_that_brings_nothing_has_hung(tmp_path: Path, device: DeviceProcess) -> None:
    job = job_of(tmp_path, HANGS)
    with pytest.raises(DeviceDied, match=r"took longer than 1\.5 s"):
        list(device.run(Order(job.output.uri, job.run.n, [1]), lambda: False))
    assert device.counters.deaths == 1
