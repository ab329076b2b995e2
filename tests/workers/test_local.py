"""Jobs on this machine: transient failures are tried again; several devices share the shards."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from corpora import write_parquet
from prepared import prepared_run

from pipeline.errors import CheckpointError, EncodeError, StorageError, StoreFull
from pipeline.output.manifest import finalise
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.verify import verify
from pipeline.planning.prepare import Prepared
from pipeline.spec import ModelIdentity, OnBatch, ShardResult
from workers.local import LocalRun, _relay, _run_device, compute_missing


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that are spawned


@pytest.fixture
def job(tmp_path: Path) -> Prepared:
    """Forty rows in four shards."""
    return prepared_run(
        tmp_path, write_parquet(tmp_path / "c.parquet", 40), rows_per_shard=10, token_budget=200
    )


def run_locally(
    job: Prepared,
    *devices: str,
    on_batch: OnBatch = lambda rows, tokens: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[ShardResult]:
    local_run = LocalRun(
        devices or ("cpu",), Path(job.output.uri).parent / "cache", should_stop, on_batch
    )
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
    results = run_locally(job, "cpu", "cpu", on_batch=lambda rows, tokens: batches.append(rows))
    assert sorted(result.part for result in results) == sorted(job.plan.parts)
    assert all(result.computed for result in results)
    assert sum(batches) == 40
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None
    assert verify(job.output).ok
    assert multiprocessing.active_children() == []
    for one, other in zip(job.plan.shards(), alone.plan.shards(), strict=True):
        tables = []
        for run, shard in ((job, one), (alone, other)):
            with pa.ipc.open_file(Path(run.output.uri) / shard.part) as reader:
                tables.append(reader.read_all().replace_schema_metadata(None))
        assert tables[0].equals(tables[1])


def test_a_device_process_that_dies_is_an_error_and_the_next_try_resumes(
    job: Prepared,
) -> None:
    def kill_one(rows: int, tokens: int) -> None:
        for process in multiprocessing.active_children()[:1]:
            process.kill()

    with pytest.raises(EncodeError, match=r"bei-jobs cpu died with exit code -9") as caught:
        run_locally(job, "cpu", "cpu", on_batch=kill_one)
    assert "run the same command again" in caught.value.hint
    assert multiprocessing.active_children() == []
    run_locally(job)
    assert finalise(job.output, job.run, job.plan, max_failed="0") is not None
    assert verify(job.output).ok


def serve(job: Prepared, monkeypatch: pytest.MonkeyPatch, stop: threading.Event) -> list[Any]:
    """The body of a device's process, in this one; what it sends to its parent."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    spans: queue.Queue[Any] = queue.Queue()
    events: queue.Queue[Any] = queue.Queue()
    for span in [*job.plan.spans(), None]:
        spans.put(span)
    put = events.put

    def stop_after_first_batch(event: tuple[str, Any]) -> None:
        put(event)
        if event[0] == "batch":
            stop.set()

    monkeypatch.setattr(events, "put", stop_after_first_batch)
    cache = Path(job.output.uri).parent / "cache"
    _run_device(job.output.uri, job.run.n, "cpu", cache, spans, events, stop)
    return [events.get() for _ in range(events.qsize())]


def test_a_device_process_that_is_told_to_stop_leaves_whole_parts(
    job: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = serve(job, monkeypatch, threading.Event())
    assert events[-1] == ("end", None)
    results = [value for kind, value in events if kind == "result"]
    assert {result.part for result in results} == job.output.committed().keys()
    assert len(results) < len(job.plan)


def test_a_device_process_that_cannot_continue_tells_its_parent_why(
    job: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelIdentity(job.run.spec.model.name, "", "00" * 32, "00" * 32)
    other = replace(job.run, spec=replace(job.run.spec, model=model))
    monkeypatch.setattr(Output, "run", lambda self, n: other)
    (kind, error), end = serve(job, monkeypatch, threading.Event())
    assert (kind, end) == ("error", ("end", None))
    assert isinstance(error, CheckpointError)
    assert pickle.loads(pickle.dumps(error)).hint == error.hint != ""


def test_the_parent_relays_the_events_of_its_processes_and_stops_them() -> None:
    batches: list[tuple[int, int]] = []
    events: queue.Queue[Any] = queue.Queue()
    result = ShardResult("s", "p", 10)
    for event in [("batch", (3, 9)), ("result", result), ("end", None), ("end", None)]:
        events.put(event)
    stop = threading.Event()
    local_run = LocalRun(
        ("cpu", "cpu"), None, lambda: bool(batches), lambda *batch: batches.append(batch)
    )
    processes: Any = [None, None]
    assert list(_relay(processes, events, stop, local_run)) == [result]
    assert batches == [(3, 9)]
    assert stop.is_set()
    events.put(("error", StoreFull("full")))
    with pytest.raises(StoreFull):
        list(_relay(processes, events, stop, local_run))
