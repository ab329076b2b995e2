"""Jobs on this machine: transient failures are tried again; several devices share the shards."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from corpora import write_parquet
from prepared import prepared_run

from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError, EncodeError, StorageError, StoreFull
from pipeline.output.manifest import finalise
from pipeline.output.open_shards import OPEN, rows_kept
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.part_file import read_info
from pipeline.output.verify import verify
from pipeline.planning.prepare import Prepared
from pipeline.shards import ShardResult
from pipeline.spec import ModelIdentity, OnBatch
from pipeline.tokenize.texts import TextTokenizer
from workers.device_main import Event, Jobs, Order, execute
from workers.device_process import DeviceProcess, DeviceThread
from workers.engine_cache import EngineCache
from workers.local import LocalRun, compute_missing
from workers.open_devices import open_devices
from workers.settings import Settings


@pytest.fixture(autouse=True)
def one_thread_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def job(tmp_path: Path) -> Prepared:
    """Forty rows in four shards."""
    return prepared_run(
        tmp_path, write_parquet(tmp_path / "c.parquet", 40), rows_per_shard=10, token_budget=200
    )


def run_locally(
    job: Prepared,
    devices: int = 0,
    *,
    on_batch: OnBatch = lambda rows, tokens: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[ShardResult]:
    """Compute what is missing, in so many processes; 0 for a thread of this one."""
    cache = Path(job.output.uri).parent / "cache"
    settings = Settings(state_dir=cache, cache_dir=cache)
    uris = () if devices else ("memory://",)
    with open_devices(["cpu"] * (devices or 1), uris, settings) as opened:
        local_run = LocalRun(opened, should_stop, on_batch)
        return list(compute_missing(job.output, job.run, job.plan, local_run))


def test_only_missing_shards_are_computed(job: Prepared) -> None:
    assert len(run_locally(job)) == 4
    job.output.directory.delete(job.plan.shard(2).part)
    assert [result.part for result in run_locally(job)] == [job.plan.shard(2).part]
    assert run_locally(job) == []


def failing(monkeypatch: pytest.MonkeyPatch, part: str, times: int, error: Exception) -> list[str]:
    """Make the commit of one part fail so many times; what was tried."""
    commit, tried = Output.commit, []

    def commits(self: Output, name: str, data: memoryview) -> bool:
        tried.append(name)
        if name == part and tried.count(part) <= times:
            raise error
        return commit(self, name, data)

    monkeypatch.setattr(Output, "commit", commits)
    return tried


def test_a_transient_failure_is_tried_again_after_the_others(
    job: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = job.plan.shard(0).part
    tried = failing(monkeypatch, part, MAX_ATTEMPTS - 1, StorageError("for a while"))
    results = run_locally(job)
    assert sorted(result.part for result in results) == sorted(job.plan.parts)
    assert not any(result.error for result in results)
    assert tried[4:] == [part] * (MAX_ATTEMPTS - 1)
    assert job.output.failures(job.run) == {}
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None


def test_a_failure_that_does_not_pass_is_given_up_and_reported_once(
    job: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = job.plan.shard(0).part
    tried = failing(monkeypatch, part, 99, StorageError("for ever"))
    results = run_locally(job)
    assert len(results) == 4
    (failed,) = [result for result in results if result.error]
    assert failed.part == part
    assert tried.count(part) == MAX_ATTEMPTS
    assert job.output.failures(job.run).keys() == {job.plan.shard(0).id}


def test_a_failure_that_cannot_pass_is_not_tried_again(
    job: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = job.plan.shard(3).part
    tried = failing(monkeypatch, part, 99, StoreFull("full"))
    run_locally(job)
    assert tried.count(part) == 1
    assert job.output.failures(job.run).keys() == {job.plan.shard(3).id}


def test_two_devices_give_the_rows_of_one(job: Prepared, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "other/c.parquet", 40)
    alone = prepared_run(tmp_path / "other", corpus, rows_per_shard=10)
    run_locally(alone)
    batches: list[int] = []
    results = run_locally(job, 2, on_batch=lambda rows, tokens: batches.append(rows))
    assert sorted(result.part for result in results) == sorted(job.plan.parts)
    assert all(result.computed for result in results)
    assert sum(batches) == 40
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None
    assert verify(job.output).ok
    for one, other in zip(job.plan.shards(), alone.plan.shards(), strict=True):
        tables = []
        for run, shard in ((job, one), (alone, other)):
            with pa.ipc.open_file(Path(run.output.uri) / shard.part) as reader:
                tables.append(reader.read_all().replace_schema_metadata(None))
        assert tables[0].equals(tables[1])


class BrokenDevice(DeviceThread):
    """Takes an order and gives it back: it cannot load the model.

    Args:
        until: what it waits for meanwhile.
    """

    def __init__(self, until: threading.Event | None = None) -> None:
        super().__init__("cpu", EngineCache(None))
        self.asked = threading.Event()
        self._until = until

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        self.asked.set()
        if self._until is not None:
            assert self._until.wait(60)
        raise EncodeError("loading the model failed", hint="free its memory")
        yield


class PatientDevice(DeviceThread):
    """Computes, but not before another device has an order."""

    def __init__(self, cache_dir: Path) -> None:
        super().__init__("cpu", EngineCache(cache_dir))
        self.other = BrokenDevice(until=(done := threading.Event()))
        self._done = done

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        assert self.other.asked.wait(60)
        yield from super().run(order, should_stop)
        self._done.set()


def on(job: Prepared, *devices: DeviceThread) -> list[ShardResult]:
    local_run = LocalRun(devices, lambda: False, lambda rows, tokens: None)
    return list(compute_missing(job.output, job.run, job.plan, local_run))


@pytest.mark.parametrize("shards", [1, 4])
def test_a_device_that_loads_no_model_leaves_every_shard_to_the_others(
    job: Prepared, tmp_path: Path, shards: int
) -> None:
    run_locally(job)
    for index in range(shards):
        job.output.directory.delete(job.plan.shard(index).part)
    device = DeviceThread("cpu", EngineCache(tmp_path / "cache"))
    assert len(on(job, BrokenDevice(), device)) == shards
    assert job.plan.missing(job.output.committed()) == []


def test_a_shard_that_is_given_back_when_the_others_have_ended_theirs_is_computed(
    tmp_path: Path,
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 20)
    job = prepared_run(tmp_path, corpus, rows_per_shard=10)
    device = PatientDevice(tmp_path / "cache")
    assert len(on(job, device.other, device)) == 2
    assert job.plan.missing(job.output.committed()) == []


def test_devices_that_all_fail_are_the_error_of_the_run(job: Prepared) -> None:
    with pytest.raises(EncodeError, match="loading the model failed"):
        on(job, BrokenDevice(), BrokenDevice())
    assert job.output.failures(job.run) == {}


def test_a_device_process_leaves_signals_to_its_parent_from_the_first(tmp_path: Path) -> None:
    others = multiprocessing.active_children()
    device = DeviceProcess("cpu", tmp_path, 60.0)
    device.start()
    (process,) = set(multiprocessing.active_children()).difference(others)
    assert process.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # it is not even Python yet
        os.kill(process.pid, number)
    device.close()
    assert process.exitcode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_a_machine_that_starts_no_process_is_told_and_may_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = DeviceProcess("cpu", tmp_path, 60.0)
    with monkeypatch.context() as patch:
        error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        patch.setattr("multiprocessing.util.spawnv_passfds", Mock(side_effect=error))
        with pytest.raises(EncodeError, match="for cpu: Resource temporarily unavailable"):
            device.start()
        device.kill()
    device.start()
    assert device._process is not None
    assert device._process.is_alive()
    device.kill()


def test_a_device_process_that_dies_is_replaced_and_nobody_notices(job: Prepared) -> None:
    killed = []

    def kill_one(rows: int, tokens: int) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    results = run_locally(job, 2, on_batch=kill_one)
    assert killed
    assert sorted(result.part for result in results) == sorted(job.plan.parts)
    assert not any(result.failed or result.error for result in results)
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None
    assert verify(job.output).ok


def test_orders_of_a_run_share_a_tokenizer_until_something_happens_to_it(
    job: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Mock(side_effect=load_tokenizer)
    monkeypatch.setattr("pipeline.encoder.tokenizer.load_tokenizer", load)
    engines, jobs = EngineCache(tmp_path / "cache"), Jobs()

    def order(index: int) -> object:
        events: list[Event] = []
        one = Order(job.output.uri, job.run.n, [index])
        execute(one, "cpu", engines, events.append, lambda: False, jobs)
        return events[-1][1]

    assert [order(0), order(1)] == [None, None]
    assert load.call_count == 1
    with monkeypatch.context() as patch:
        patch.setattr(TextTokenizer, "encode_column", Mock(side_effect=RuntimeError("a panic")))
        assert order(2) == "RuntimeError: a panic"
    assert order(2) is None
    assert load.call_count == 2


def test_a_model_that_cannot_be_loaded_is_the_error_of_the_run(job: Prepared) -> None:
    model = ModelIdentity(job.run.spec.model.name, "", "00" * 32, "00" * 32)
    data = job.run.to_json()
    data["spec"]["model"] = asdict(model)
    job.output.directory.put(job.run.path("run.json"), json.dumps(data).encode())
    for devices in (0, 1, 2):
        with pytest.raises(CheckpointError, match="differ from what the job") as caught:
            run_locally(job, devices)
        assert caught.value.hint
    assert job.output.failures(job.run) == {}


def test_what_is_computed_of_an_open_shard_is_kept_when_a_run_is_stopped(
    tmp_path: Path,
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 200)
    job = prepared_run(tmp_path, corpus, token_budget=100)
    stopped_after = 3
    seen: list[int] = []
    run_locally(
        job,
        on_batch=lambda rows, tokens: seen.append(rows),
        should_stop=lambda: len(seen) >= stopped_after,
    )
    assert job.output.committed() == {}
    kept = rows_kept(job.output, job.plan)
    assert kept == sum(seen) > 0
    again: list[int] = []
    (result,) = run_locally(job, on_batch=lambda rows, tokens: again.append(rows))
    assert sum(again) == 200 - kept
    assert (result.rows, result.failed) == (200, 0)
    info = read_info(job.output.directory, result.part)
    assert info.values["resumed"] == str(kept)
    assert rows_kept(job.output, job.plan) == 0  # gone when the part is there
    (tmp_path / "whole").mkdir()
    whole = prepared_run(tmp_path / "whole", corpus, token_budget=100)
    run_locally(whole)
    assert _rows(job) == _rows(whole)


def _rows(job: Prepared) -> list[dict[str, Any]]:
    tables = []
    for shard in job.plan.shards():
        with pa.ipc.open_file(Path(job.output.uri) / shard.part) as reader:
            tables.append(reader.read_all().replace_schema_metadata(None))
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def test_a_damaged_piece_is_computed_again(tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 200)
    job = prepared_run(tmp_path, corpus, token_budget=100)
    seen: list[int] = []
    run_locally(
        job, on_batch=lambda rows, tokens: seen.append(rows), should_stop=lambda: len(seen) >= 3
    )
    (name,) = (item.name for item in job.output.directory.list(OPEN, recursive=True))
    path = Path(job.output.uri) / name
    with pa.ipc.open_file(path) as reader:
        piece = reader.read_all()
    (vector,) = piece["embedding"][:1].to_pylist()
    value = np.float32(vector[0]).tobytes()
    path.write_bytes(path.read_bytes().replace(value, np.float32(-vector[0]).tobytes(), 1))
    (result,) = run_locally(job)
    assert (result.rows, result.failed) == (200, 0)
    assert verify_parts(job)
    (tmp_path / "whole").mkdir()
    whole = prepared_run(tmp_path / "whole", corpus, token_budget=100)
    run_locally(whole)
    assert _rows(job) == _rows(whole)


def verify_parts(job: Prepared) -> bool:
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None
    return verify(job.output).ok


def test_an_input_that_changes_meanwhile_leaves_no_piece(tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 200)
    job = prepared_run(tmp_path, corpus, token_budget=100)
    seen: list[int] = []

    def change(rows: int, tokens: int) -> None:
        seen.append(rows)
        corpus.touch()

    run_locally(job, on_batch=change, should_stop=lambda: len(seen) >= 3)
    assert rows_kept(job.output, job.plan) == 0
