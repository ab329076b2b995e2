"""Which rows were in the hands of a process that died."""

from __future__ import annotations

import numpy as np

from pipeline.shards import Cut, InputFile, Shard
from workers.in_flight import InFlight, in_words

FILE = InputFile("s3://b/c.parquet", "c.parquet", "1", 1, 100, "parquet")
ONE, TWO = (Shard(FILE, Cut(first, 50), name * 16) for first, name in ((0, "a"), (50, "b")))


def test_only_what_is_begun_and_not_ended_is_in_flight() -> None:
    rows = InFlight()
    rows.begin("block-0", {ONE.id: np.arange(50), TWO.id: np.arange(10)})
    rows.end("block-0")
    rows.begin("batch-0-0", {ONE.id: np.array([3, 9])})
    assert {shard: r.tolist() for shard, r in rows.places().items()} == {ONE.id: [3, 9]}


def test_without_a_batch_what_is_in_no_part_is_in_flight() -> None:
    rows = InFlight()
    for number, shard in enumerate((ONE, TWO)):
        rows.begin(f"block-{number}", {shard.id: np.arange(5)})
        rows.end(f"block-{number}")
    rows.ended(ONE.id)
    assert rows.places().keys() == {TWO.id}
    rows.ended(TWO.id)
    assert rows.places() == {}


def test_the_log_names_the_file_and_the_row() -> None:
    assert in_words({TWO.id: np.array([7])}, [TWO]) == "row 57 of s3://b/c.parquet, tried alone,"
    many = in_words({ONE.id: np.arange(3), TWO.id: np.arange(2)}, [ONE, TWO])
    assert many == "one of 5 rows of s3://b/c.parquet rows 0-49 and 1 more shard"
    assert "before or after" in in_words({}, [])
