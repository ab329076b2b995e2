"""What a worker holds at once is bounded by bytes, whatever the rows are; and so is a part.

The bounds are patched to a sixteenth, so that 40 MB of kept text are as much as 640 MB.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from corpora import TINY
from fixtures_encoder import open_engine
from prepared import prepared_run

from pipeline import blocks
from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.engine import Engine
from pipeline.input import byte_cuts, cuts, reading
from pipeline.input.formats import arrow, parquet, sizes
from pipeline.planning.prepare import Prepared
from pipeline.run import run_shards

MIB = 1 << 20
PART, BLOCK, BATCH = 16 * MIB, 2 * MIB, MIB // 4
ROWS, WIDTH = 400, 100_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return open_engine(resolve(TINY))


@pytest.fixture(autouse=True)
def a_sixteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in [
        (byte_cuts, "PART_MAX_BYTES", PART),
        (byte_cuts, "_TRUSTED_BYTES", PART // 4),
        (byte_cuts, "_DIVIDED_BYTES", PART // 4),
        (cuts, "PART_MAX_BYTES", PART),
        (blocks, "_BLOCK_BYTES", BLOCK),
        *((module, "BATCH_BYTES", BATCH) for module in (arrow, parquet, reading, sizes)),
    ]:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("pipeline.run.QUEUED_BYTES", BLOCK)
    monkeypatch.setattr("pipeline.commit.QUEUED_BYTES", BLOCK)


def corpus(width: int = WIDTH, rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(0)
    bodies = [rng.bytes(width // 2).hex() for _ in range(rows)]
    return pa.table({"id": range(rows), "text": [f"text {i}" for i in range(rows)], "body": bodies})


def write_parquet(path: Path, table: pa.Table) -> None:
    # pyarrow writes pages of 1,024 rows at least, whatever their size, and reads a page as a whole.
    pq.write_table(table, path, write_batch_size=10, use_dictionary=False, compression="none")


def write_jsonl(path: Path, table: pa.Table) -> None:
    with path.open("w") as file:
        for start in range(0, table.num_rows, 50):
            rows = table.slice(start, 50).to_pylist()
            file.writelines(json.dumps(row) + "\n" for row in rows)


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table.combine_chunks())


WRITERS = {"parquet": write_parquet, "jsonl": write_jsonl, "arrow": write_arrow}


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """The most bytes that Arrow held at any time meanwhile, besides those that it held before."""
    before, most = pa.total_allocated_bytes(), [0]
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.0005):
            most[0] = max(most[0], pa.total_allocated_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        stopped.set()
        thread.join()


def run(job: Prepared, engine: Engine) -> None:
    shards = list(job.plan.shards())
    results = list(run_shards(job.run, shards, engine, job.output, attempt="attempt"))
    assert [result.error for result in results] == [""] * len(shards)


def parts(job: Prepared) -> list[Path]:
    return sorted(Path(job.output.uri).glob("part-*"))


@pytest.mark.parametrize("suffix", WRITERS)
def test_wide_kept_columns_take_bounded_memory(tmp_path: Path, engine: Engine, suffix: str) -> None:
    path = tmp_path / f"wide.{suffix}"
    WRITERS[suffix](path, corpus())
    with peak() as held:
        job = prepared_run(tmp_path, path, keep=("body",))
        run(job, engine)
        assert held() < PART + 8 * BLOCK
    assert max(part.stat().st_size for part in parts(job)) <= PART
    total = sum(part.stat().st_size for part in parts(job))
    assert total > ROWS * WIDTH
    rows = pa.concat_tables(pa.ipc.open_file(part).read_all() for part in parts(job))
    assert rows["id"].to_pylist() == list(range(ROWS))
    assert rows["body"].equals(pa.chunked_array([corpus()["body"].combine_chunks()]))


def test_rows_larger_than_a_part_are_computed_one_by_one(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "huge.parquet"
    write_parquet(path, corpus(width=PART + MIB, rows=3))
    job = prepared_run(tmp_path, path, keep=("body",))
    assert [shard.rows for shard in job.plan.shards()] == [1, 1, 1]
    run(job, engine)
    (first, *_) = parts(job)
    body = pa.ipc.open_file(first).read_all()["body"]
    assert pc.binary_length(body).to_pylist() == [PART + MIB]
