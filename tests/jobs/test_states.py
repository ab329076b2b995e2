"""The state of a job is what is true of it, also when nobody is left to say so."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, write_parquet
from fleet import until
from prepared import prepared_run

from pipeline.errors import EncodeError
from pipeline.output.leases import RunLease
from pipeline.output.output import Output
from pipeline.output.plan import Span
from workers.broker import Broker, WorkerInfo
from workers.run_lease import LeaseHolder

WORKER = WorkerInfo("gpu-7", 41, "0.1.0", ("cuda:0",), "2026-01-01T00:00:00Z")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 20)


@pytest.fixture
def planned(corpus: Path, tmp_path: Path) -> Path:
    """The folder of the run of an output that is planned, and not executed."""
    prepared_run(tmp_path, corpus)
    return tmp_path / "out/_bei/runs/1"


@pytest.fixture
def state(bei: Bei, tmp_path: Path) -> Callable[..., str]:
    """The state of the output."""

    def shown(*words: object) -> str:
        told: str = bei("status", tmp_path / "out", "--json", *words).json["state"]
        return told

    return shown


def age(path: Path, seconds: float) -> None:
    """Let a file have been written so long ago by the store's clock."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def lease(run: Path, *, computing: bool = True, elsewhere: bool = False) -> Path:
    """A lease of this process on a run, as it is seen here or on another machine."""
    output = Output(str(run.parents[2]))
    before = set(run.glob("running/*"))
    RunLease(output, output.run(1)).write(computing=computing)
    (path,) = set(run.glob("running/*")) - before
    if elsewhere:
        value = json.loads(path.read_text())
        value["process"]["space"] = "another machine"
        path.write_text(json.dumps(value))
    return path


def test_a_run_that_nobody_took_up_is_interrupted(planned: Path, state: Callable[..., str]) -> None:
    assert state() == "queued"  # its process is about to begin
    age(planned / "run.json", 100)
    assert state() == "interrupted"


def test_a_run_is_running_while_its_process_lives(planned: Path, state: Callable[..., str]) -> None:
    path = lease(planned)
    age(path, 1000)
    assert state() == "running"  # this process lives: nothing else needs to be known
    value = json.loads(path.read_text())
    value["process"]["started"] = "1"  # another process had its number
    path.write_text(json.dumps(value))
    assert state() == "interrupted"
    lease(planned, computing=False)
    assert state() == "queued"


def test_a_run_on_another_machine_is_running_while_its_lease_is_renewed(
    planned: Path, state: Callable[..., str]
) -> None:
    age(planned / "run.json", 1000)
    path = lease(planned, elsewhere=True)
    age(path, 40)
    assert state() == "running"
    age(path, 100)
    assert state() == "interrupted"


def test_of_two_processes_on_a_run_one_that_lives_is_enough(
    planned: Path, state: Callable[..., str]
) -> None:
    age(lease(planned, elsewhere=True), 100)
    lease(planned)
    assert state() == "running"


def test_a_lease_that_is_none_is_ignored(planned: Path, state: Callable[..., str]) -> None:
    (planned / "running").mkdir()
    for number, text in enumerate(["", "[]", "{}", '{"ended": "", "computing": 1, "process": 3}']):
        (planned / f"running/{number}.json").write_text(text)
    assert state() == "queued"


def test_a_finished_job_leaves_no_lease(submit: Bei, corpus: Path, tmp_path: Path) -> None:
    assert submit(corpus, "--output", tmp_path / "out").code == 0
    assert list((tmp_path / "out/_bei/runs/1").glob("running/*")) == []


@pytest.mark.usefixtures("device_in_this_process")
def test_a_job_that_cannot_go_on_is_interrupted_and_says_why(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise EncodeError("the device is gone", hint="bring it back")

    with monkeypatch.context() as patch:
        patch.setattr("workers.engine_cache.EngineCache.get", broken)
        patch.setattr("workers.shard_runner._MAX_DEATHS", 1)
        assert submit(corpus, "--output", tmp_path / "out").code == 1
    told = bei("status", tmp_path / "out", "--json").json
    assert told["state"] == "interrupted"
    assert "the device is gone" in told["last_failure"]["reason"]
    assert "the device is gone" in bei("status", tmp_path / "out").out
    assert submit(corpus, "--output", tmp_path / "out", "--json").json["run"] == 1


def test_a_job_without_a_worker_waits_for_workers(
    bei: Bei, corpus: Path, tmp_path: Path, state: Callable[..., str], redis_url: str
) -> None:
    words = (corpus, "--model", TINY, "--output", tmp_path / "out")
    told = bei("submit", *words, "--broker", redis_url, "--quiet", "--json").json
    assert told["state"] == "waiting for workers"
    assert state("--broker", redis_url) == "waiting for workers"
    (listed,) = bei("list", "--broker", redis_url, "--json").json["jobs"]
    assert listed["state"] == "waiting for workers"
    assert state() == "queued"  # the store knows no more
    broker = Broker(redis_url)
    broker.heartbeat(WORKER, 60)
    assert state("--broker", redis_url) == "queued"
    with broker.ledger(told["job"]) as ledger:
        ledger.lease(Span(0, 1), "gpu-7:41:a", 60).take()
    assert state("--broker", redis_url) == "running"


def test_a_job_on_a_queue_is_running_while_something_of_it_is_written(
    bei: Bei, corpus: Path, tmp_path: Path, state: Callable[..., str], redis_url: str
) -> None:
    words = (corpus, "--model", TINY, "--output", tmp_path / "out")
    assert bei("submit", *words, "--broker", redis_url, "--quiet").code == 0
    attempt = tmp_path / "out/_bei/runs/1/attempts/a-0.json"
    attempt.parent.mkdir()
    attempt.write_text('{"places": {}, "reason": ""}')
    assert state() == "running"
    assert state("--broker", redis_url) == "waiting for workers"  # which knows better
    age(attempt, 1000)
    assert state() == "queued"


def test_a_submit_that_waits_for_another_process_is_queued(
    planned: Path, corpus: Path, tmp_path: Path, state: Callable[..., str]
) -> None:
    output = Output(str(tmp_path / "out"))
    age(planned / "run.json", 1000)
    with LeaseHolder(output, output.run(1)) as held:
        held.wait()
        assert state() == "queued"
        held.compute()
        assert state() == "running"
    assert state() == "interrupted"


def test_a_lease_is_renewed_while_its_process_computes(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.run_lease.LOCAL_RENEW_SECONDS", 0.01)
    output = Output(str(tmp_path / "out"))
    with LeaseHolder(output, output.run(1)) as held:
        held.compute()
        (path,) = (planned / "running").iterdir()
        age(path, 100)
        until(lambda: time.time() - path.stat().st_mtime < 50, "the lease to be renewed")
