"""The bisection on a stand-in for a process that dies of some rows: it ends at exactly these."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.open_shards import Death, Piece
from pipeline.output.row_ranges import Rows, ranges_of, rows_in
from pipeline.output.suspects import OpenShard, ShardWork
from pipeline.shards import Cut, InputFile, Shard

FILE = InputFile("c.parquet", "c.parquet", "1", 1, 10_000, "parquet")


class Process:
    """Computes what it is told in batches, saves each, and dies of a guilty row."""

    def __init__(self, rows: int, guilty: set[int], batch: int, seed: int) -> None:
        self.shard = Shard(FILE, Cut(0, rows), "ab" * 8)
        self.guilty = guilty
        self.batch = batch
        self.random = np.random.default_rng(seed)
        self.saved: list[Piece] = []
        self.deaths: list[Death] = []

    def look(self) -> OpenShard:
        return OpenShard.of(self.shard, self.saved, self.deaths)

    def compute(self, work: ShardWork) -> None:
        todo = np.ones(self.shard.rows, dtype=np.bool_)
        if work.held is not None:
            todo &= ~work.held
        for piece in work.pieces:
            todo[piece.rows] = False
        todo[list(work.refused)] = False
        rows = self.random.permutation(np.flatnonzero(todo))
        for start in range(0, rows.size, self.batch):
            batch = np.sort(rows[start : start + self.batch])
            if self.guilty & set(batch.tolist()):
                self.deaths.append(Death({self.shard.id: batch}, "killed its process"))
                return
            self.saved.append(Piece(f"{len(self.saved)}", batch, "float32", 0.0))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 400), st.data())
def test_the_guilty_rows_are_found_and_all_others_are_computed_once(
    rows: int, data: st.DataObject
) -> None:
    guilty = data.draw(st.sets(st.integers(0, rows - 1), max_size=4))
    batch = data.draw(st.integers(1, rows + 10))
    process = Process(rows, guilty, batch, data.draw(st.integers(0, 99)))
    limit = (len(guilty) + 1) * 2 * (math.ceil(math.log2(rows + 1)) + 6)
    for _ in range(50 * limit):
        shard = process.look()
        if not shard.only_suspects:
            process.compute(shard.without_suspects())
            if not process.look().suspects().any() and not process.guilty - set(shard.refused()):
                break
        elif (trial := shard.trial()) is not None:
            process.compute(trial)
    saved = np.concatenate([piece.rows for piece in process.saved] or [np.zeros(0, np.int64)])
    assert set(process.look().refused()) == guilty
    assert sorted(saved.tolist()) == sorted(set(range(rows)) - guilty)
    assert len(process.deaths) <= limit


def test_a_row_that_died_with_others_or_alone_once_is_not_given_up() -> None:
    process = Process(10, set(), 10, 0)
    together, alone = np.arange(10), np.array([3])
    for rows in (together, together, together, alone):
        process.deaths.append(Death({process.shard.id: rows}, "killed its process"))
    assert process.look().refused() == {}
    process.deaths.append(Death({process.shard.id: alone}, "took longer than 9 s"))
    assert process.look().refused() == {3: "took longer than 9 s"}


def test_a_row_is_alone_only_if_no_row_of_another_shard_was_in_flight() -> None:
    process = Process(10, set(), 10, 0)
    places: dict[str, Rows] = {process.shard.id: np.array([3]), "cd" * 8: np.array([0])}
    process.deaths += [Death(places, "killed its process")] * 5
    assert process.look().refused() == {}
    assert process.look().suspects().tolist() == [row == 3 for row in range(10)]


def test_one_death_holds_nothing_back() -> None:
    process = Process(10, set(), 10, 0)
    process.deaths.append(Death({process.shard.id: np.arange(10)}, "killed its process"))
    assert process.look().without_suspects().plain


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_the_rows(rows: set[int]) -> None:
    numbers = np.array(sorted(rows), dtype=np.int64)
    ranges = ranges_of(numbers)
    assert rows_in(ranges, 61).tolist() == numbers.tolist()
    assert all(b[0] > a[0] + a[1] for a, b in itertools.pairwise(ranges))
