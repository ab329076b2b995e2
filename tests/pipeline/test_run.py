"""The main path over a real, tiny checkpoint: what fails in a thread surfaces, none outlives it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import write_parquet
from fixtures_encoder import open_engine
from prepared import prepared_run

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.engine import Engine
from pipeline.errors import StorageError, StoreFull
from pipeline.output.open_shards import rows_kept
from pipeline.output.output import Output, quarantine_name
from pipeline.output.part_file import read_info
from pipeline.output.quarantine import write_quarantine
from pipeline.output.repaired import good_rows
from pipeline.output.suspects import ShardWork
from pipeline.planning.prepare import Prepared
from pipeline.run import run_shards
from pipeline.shards import ShardResult
from pipeline.tasks.embed import Embed


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    from corpora import TINY

    return open_engine(resolve(TINY))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def job(tmp_path: Path) -> Prepared:
    """Forty rows in four shards."""
    return prepared_run(tmp_path, write_parquet(tmp_path / "c.parquet", 40), rows_per_shard=10)


def compute(
    job: Prepared,
    engine: Engine,
    should_stop: Callable[[], bool] = lambda: False,
    attempt: str = "attempt-1",
) -> list[ShardResult]:
    shards = list(job.plan.shards())
    return list(
        run_shards(job.run, shards, engine, job.output, attempt=attempt, should_stop=should_stop)
    )


def rows_of(job: Prepared, part: str) -> pa.Table:
    with pa.ipc.open_file(Path(job.output.uri) / part) as reader:
        return reader.read_all()


def test_every_shard_is_committed_and_reported_once_in_order(job: Prepared, engine: Engine) -> None:
    results = compute(job, engine)
    assert [result.part for result in results] == [shard.part for shard in job.plan.shards()]
    assert all(result.computed and not result.error for result in results)
    assert [result.rows for result in results] == [10] * 4
    assert job.output.committed().keys() == job.plan.parts
    info = read_info(job.output.directory, results[2].part)
    assert info.values["attempt"] == "attempt-1"
    assert info.values["job"] == job.run.job
    assert (info.count("rows"), info.count("first_row")) == (10, 20)
    assert info.count("tokens") == results[2].tokens > 0


def test_a_shard_run_twice_is_harmless_and_known_for_what_it_is(
    job: Prepared, engine: Engine
) -> None:
    compute(job, engine)
    part = next(iter(job.plan.parts))
    before = job.output.directory.info(part)
    again = compute(job, engine, attempt="attempt-2")
    assert not any(result.computed for result in again)
    assert not any(result.error for result in again)
    assert job.output.directory.info(part) == before


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_what_breaks_while_reading_surfaces(
    job: Prepared, engine: Engine, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[object]:
        raise kind("in the reader")
        yield

    monkeypatch.setattr("pipeline.input.reading.read_numbered", broken)
    with pytest.raises(kind, match="in the reader"):
        compute(job, engine)


def test_what_breaks_while_tokenizing_surfaces(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, rows: pa.RecordBatch) -> None:
        raise RuntimeError("in the tokenizer")

    monkeypatch.setattr(Embed, "tokenize", broken)
    with pytest.raises(RuntimeError, match="in the tokenizer"):
        compute(job, engine)


def test_what_breaks_on_the_device_surfaces(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, batches: object, *_: object) -> Iterator[object]:
        raise RuntimeError("on the device")
        yield

    monkeypatch.setattr(Engine, "run_all", broken)
    with pytest.raises(RuntimeError, match="on the device"):
        compute(job, engine)


@pytest.mark.parametrize(
    "where", ["pipeline.commit.encode_part", "pipeline.output.output.Output.commit"]
)
def test_what_breaks_while_committing_surfaces(
    job: Prepared, engine: Engine, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("in the committer")

    monkeypatch.setattr(where, broken)
    with pytest.raises(RuntimeError, match="in the committer"):
        compute(job, engine)
    assert job.output.committed() == {}


def test_a_store_that_refuses_one_part_fails_that_shard_alone(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, refused = Output.commit, job.plan.shard(1).part

    def flaky(self: Output, part: str, data: memoryview) -> bool:
        if part == refused:
            raise StorageError("the store is tired", hint="try again")
        return commit(self, part, data)

    monkeypatch.setattr(Output, "commit", flaky)
    results = compute(job, engine)
    assert [bool(result.error) for result in results] == [False, True, False, False]
    failed = results[1]
    assert "rows 10-19" in failed.error
    assert "the store is tired" in failed.error
    assert (failed.hint, failed.transient) == ("try again", True)
    assert len(job.output.committed()) == 3


def test_a_full_store_is_not_worth_another_try(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Output, part: str, data: memoryview) -> bool:
        raise StoreFull("no space left")

    monkeypatch.setattr(Output, "commit", full)
    assert not any(result.transient for result in compute(job, engine))


def test_failed_rows_are_kept_before_their_shard_is_committed(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    commit = Output.commit

    def commits(self: Output, part: str, data: memoryview) -> bool:
        order.append("commit")
        return commit(self, part, data)

    def quarantines(*given: object) -> str:
        order.append("quarantine")
        return write_quarantine(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Output, "commit", commits)
    monkeypatch.setattr("pipeline.commit.write_quarantine", quarantines)
    corpus = write_parquet(tmp_path / "c.parquet", 2, text=["fine", None])
    compute(prepared_run(tmp_path, corpus), engine)
    assert order == ["quarantine", "commit"]


@pytest.mark.parametrize(
    ("winner", "loser", "output_format"),
    [((5,), (7,), "arrow"), ((5, 8), (5,), "parquet"), ((), (7,), "arrow")],
)
def test_the_quarantine_holds_the_rows_of_the_attempt_that_committed_the_part(
    tmp_path: Path,
    engine: Engine,
    winner: tuple[int, ...],
    loser: tuple[int, ...],
    output_format: str,
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 20)
    job = prepared_run(tmp_path, corpus, rows_per_shard=10, output_format=output_format)
    shard = job.plan.shard(1)
    for attempt, refused in (("first", winner), ("second", loser)):
        work = ShardWork(shard, refused=dict.fromkeys(refused, f"failed in the {attempt} attempt"))
        list(run_shards(
            job.run, [shard], engine, job.output, attempt=attempt, works={shard.id: work}
        ))  # fmt: skip
    file = Path(job.output.uri) / quarantine_name(shard.part)
    assert file.exists() == bool(winner)
    if winner:
        rows = pq.read_table(file)
        assert rows["bei_row"].to_pylist() == [10 + row for row in winner]
        assert set(rows["bei_error"].to_pylist()) == {"failed in the first attempt"}
        assert rows["id"].to_pylist() == [f"0-{10 + row}" for row in winner]


def test_a_repair_computes_the_rows_that_the_part_has_no_result_for(
    tmp_path: Path, engine: Engine
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 10)
    job = prepared_run(tmp_path, corpus)
    shard = job.plan.shard(0)
    work = ShardWork(shard, refused={5: "out of memory"})
    list(run_shards(job.run, [shard], engine, job.output, attempt="a", works={shard.id: work}))
    quarantine = job.output.directory.uri_of(quarantine_name(shard.part))
    rows = pq.read_table(quarantine)
    row = rows.schema.get_field_index("bei_row")
    pq.write_table(rows.set_column(row, "bei_row", pa.array([7])), quarantine)  # of another attempt
    piece = good_rows(job.output, job.run, replace(shard, cut=replace(shard.cut, repair=1)))
    assert piece is not None
    assert piece.rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_a_result_that_is_not_finite_is_an_error_row_and_never_written(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run_all

    def overflowing(self: Engine, batches: object, *given: object) -> Iterator[object]:
        for batch, outputs in run(self, batches, *given):  # type: ignore[arg-type]
            outputs.rows[0, 3] = np.inf
            yield batch, outputs

    monkeypatch.setattr(Engine, "run_all", overflowing)
    results = compute(job, engine)
    assert sum(result.failed for result in results) > 0
    for result in results:
        table = rows_of(job, result.part)
        failed = [row for row, error in enumerate(table["error"].to_pylist()) if error]
        assert len(failed) == result.failed
        assert all("not finite" in table["error"][row].as_py() for row in failed)
        assert all(table["embedding"][row].as_py() is None for row in failed)
        values = table["embedding"].combine_chunks().values.to_numpy()  # below nulls too
        assert np.isfinite(values).all()
        if failed:
            stem = result.part.removesuffix(".arrow")
            bad = pq.read_table(Path(job.output.uri) / f"_bei/quarantine/{stem}.parquet")
            assert bad["bei_row"].to_pylist() == [
                row + int(read_info(job.output.directory, result.part).values["first_row"])
                for row in failed
            ]


def test_a_value_too_large_for_float16_is_an_error_row_and_never_written(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run_all

    def large(self: Engine, batches: object, *given: object) -> Iterator[object]:
        for batch, outputs in run(self, batches, *given):  # type: ignore[arg-type]
            outputs.rows[0, 3] = 70_000
            yield batch, outputs

    monkeypatch.setattr(Engine, "run_all", large)
    corpus = write_parquet(tmp_path / "c.parquet", 2)
    for dtype, said in (("float32", None), ("float16", "float16 can hold")):
        (tmp_path / dtype).mkdir()
        job = prepared_run(tmp_path / dtype, corpus, output_dtype=(dtype,))
        (result,) = compute(job, engine)
        errors = rows_of(job, result.part)["error"].drop_null().to_pylist()
        assert len(errors) == (0 if said is None else 1)
        assert all(said is not None and said in error for error in errors)


def test_stopping_leaves_whole_parts_and_nothing_else(
    job: Prepared, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.blocks._FIRST_BLOCK_ROWS", 10)
    monkeypatch.setattr("pipeline.blocks._BLOCK_ROWS", 10)
    batches = iter(range(100))
    results = compute(job, engine, lambda: next(batches) >= 2)
    assert 0 < len(results) < 4
    assert job.output.committed().keys() == {result.part for result in results}
    assert compute(job, engine)[-1].computed


def polled(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_what_is_computed_is_saved_every_twenty_seconds(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepared_run(tmp_path, write_parquet(tmp_path / "c.parquet", 400), token_budget=40)
    computed: list[int] = []  # rows after each batch; the clock says one second a batch
    clock = SimpleNamespace(monotonic=lambda: float(len(computed)))
    monkeypatch.setattr("pipeline.commit.time", clock)

    def one_second(rows: int, tokens: int) -> None:
        computed.append(rows + (computed[-1] if computed else 0))
        if len(computed) % 20 == 10 and len(computed) > 20:
            safe = computed[len(computed) - 11]  # ten seconds ago it was time to save
            assert polled(lambda: rows_kept(job.output, job.plan) >= safe), safe

    shards = list(job.plan.shards())
    list(run_shards(job.run, shards, engine, job.output, attempt="a", on_batch=one_second))
    assert len(computed) > 90
    assert rows_kept(job.output, job.plan) == 0


def test_a_caller_that_walks_away_leaves_no_thread(job: Prepared, engine: Engine) -> None:
    results = run_shards(job.run, list(job.plan.shards()), engine, job.output, attempt="attempt-1")
    next(results)
    results.close()  # type: ignore[attr-defined]


def test_batches_are_told_as_they_come_and_add_up(job: Prepared, engine: Engine) -> None:
    calls: list[tuple[int, int]] = []
    results = list(
        run_shards(
            job.run,
            list(job.plan.shards()),
            engine,
            job.output,
            attempt="a",
            on_batch=lambda rows, tokens: calls.append((rows, tokens)),
        )
    )
    assert sum(rows for rows, _ in calls) == 40
    assert sum(tokens for _, tokens in calls) == sum(result.tokens for result in results)
