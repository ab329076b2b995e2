"""Windows through a stand-in for the device: every row comes back to where it stood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import Block
from pipeline.encode import encode
from pipeline.known_rows import RowResults
from pipeline.outputs import Outputs
from pipeline.row_keys import KEY_FIELD
from pipeline.shards import Cut, InputFile, Shard
from pipeline.slices import ShardSlice
from pipeline.tokenize.tokens import Tokens

SHARD = Shard(InputFile("c", "c", "1", 1, 40, "parquet"), Cut(0, 40), "ab" * 8)


class Device:
    """Gives each sequence its first token and its length, or each token itself."""

    def __init__(self, per_token: bool, behind: int = 0) -> None:
        self.per_token = per_token
        self.behind = behind
        self.batches: list[int] = []

    def run_all(self, batches: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = []
        for batch in batches:
            self.batches.append(batch.tokens)
            waiting.append(batch)
            if len(waiting) > self.behind:
                yield self.compute(waiting.pop(0))
        yield from map(self.compute, waiting)

    def compute(self, batch: Any) -> tuple[Any, Any]:
        if self.per_token:
            return batch, Outputs(batch.ids[:, None].astype(np.float32))
        firsts = batch.ids[batch.cu_seqlens[:-1]]
        rows = np.stack([firsts, np.diff(batch.cu_seqlens)], axis=1).astype(np.float32)
        return batch, Outputs(rows)


def stand_in(*, per_token: bool = False) -> Any:
    """What `encode` asks of a task whose outputs are kept as they are."""
    return SimpleNamespace(per_token=per_token, scorer=lambda tokens: None)


def make_block(lengths: list[int], first_id: int = 0) -> Block:
    """One row per length; rows of length 0 have no sequence."""
    kept = [row for row, length in enumerate(lengths) if length]
    offsets = np.concatenate([[0], np.cumsum([lengths[row] for row in kept])]).astype(np.int64)
    tokens = Tokens(
        ids=np.arange(first_id, first_id + offsets[-1], dtype=np.int32),
        offsets=offsets,
        row_of=np.array(kept, dtype=np.int64),
        n_tokens=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(len(lengths), dtype=np.bool_),
    )
    rows = pa.record_batch({"n": pa.array(range(len(lengths)))})
    results = RowResults.all_computed(pa.nulls(len(lengths), KEY_FIELD.type))
    return Block((ShardSlice(SHARD, rows, last=True),), rows, rows, tokens, results)


Lengths = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@settings(deadline=None)
@given(st.lists(Lengths, max_size=6), st.integers(1, 60), st.booleans(), st.integers(0, 2))
def test_every_row_comes_back_once_in_order_whatever_the_budget(
    lengths: list[list[int]], budget: int, per_token: bool, behind: int
) -> None:
    blocks = [make_block(each) for each in lengths]
    device = Device(per_token, behind)
    calls = []
    task = stand_in(per_token=per_token)
    out = list(
        encode(
            device,  # type: ignore[arg-type]
            iter(blocks),
            task,
            budget,
            lambda: False,
            lambda rows, tokens: calls.append((rows, tokens)),
        )
    )
    assert [computed.block for computed in out] == blocks
    assert all(computed.complete and computed.rows.all() for computed in out)
    for computed in out:
        tokens, outputs = computed.block.tokens, computed.outputs.rows
        if per_token and tokens.ids.size:
            np.testing.assert_array_equal(outputs[:, 0], tokens.ids)
        elif tokens.ids.size:
            np.testing.assert_array_equal(outputs[:, 0], tokens.ids[tokens.offsets[:-1]])
            np.testing.assert_array_equal(outputs[:, 1], tokens.lengths)
    assert sum(rows for rows, _ in calls) == sum(bool(n) for each in lengths for n in each)
    assert sum(tokens for _, tokens in calls) == sum(n for each in lengths for n in each)
    longest = max((n for each in lengths for n in each), default=0)
    assert all(size <= max(budget, longest) for size in device.batches)


def test_when_stopped_every_computed_row_comes_back() -> None:
    blocks = [make_block([5] * 4) for _ in range(3)]
    asked = iter([False] * 6 + [True] * 100)  # four batches of the first, two of the second
    task = stand_in()
    device: Any = Device(per_token=False)
    out = list(encode(device, iter(blocks), task, 5, lambda: next(asked), lambda *_: None))
    assert [(one.block, int(one.rows.sum()), one.complete) for one in out] == [
        (blocks[0], 4, True),
        (blocks[1], 2, False),
    ]
    assert len(device.batches) == 6


@settings(deadline=None)
@given(
    st.lists(Lengths, min_size=1, max_size=4),
    st.integers(1, 60),
    st.integers(0, 2),
    st.integers(0, 40),
    st.data(),
)
def test_every_computed_row_comes_back_once_however_often_it_is_saved(
    lengths: list[list[int]], budget: int, behind: int, stop_after: int, data: st.DataObject
) -> None:
    blocks = [make_block(each) for each in lengths]
    task = stand_in()
    started, finished, rows_done = [], set(), 0

    told = 0

    class Watch:
        def begin(self, key: str, places: dict[str, np.ndarray]) -> None:
            nonlocal told
            started.append(key)
            told += len(places[SHARD.id])

        def end(self, key: str) -> None:
            finished.add(key)

    def count(rows: int, tokens: int) -> None:
        nonlocal rows_done
        rows_done += rows

    out = list(
        encode(
            Device(False, behind),  # type: ignore[arg-type]
            iter(blocks),
            task,
            budget,
            lambda: len(started) >= stop_after,
            count,
            watch=Watch(),
            save_now=lambda: data.draw(st.booleans()),
        )
    )
    assert set(started) == finished
    assert len(started) <= stop_after
    for block in blocks:
        mine = [one for one in out if one.block is block]
        times = sum((one.rows.astype(int) for one in mine), np.zeros(block.tokens.rows, int))
        assert times.max(initial=0) <= 1
        assert sum(one.complete for one in mine) <= 1
        assert not mine or mine[-1].complete == bool(times.all()) or not times.all()
    computed = sum(int(one.rows.sum()) for one in out)
    without = sum(n == 0 for each in lengths for n in each)
    assert rows_done <= computed <= rows_done + without
    assert told == rows_done  # one sequence a row: each is in flight once


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), max_size=20),
    st.integers(1, 60),
)
def test_a_row_counts_once_and_is_in_flight_with_each_of_its_sequences(
    sequences: list[int], copies: list[int], budget: int
) -> None:
    """`sequences` of each tokenized row; `copies`: tokenized rows that further rows equal."""
    row_of = np.repeat(np.arange(len(sequences)), sequences)
    plain = make_block([1 + row % 7 for row in row_of.tolist()] or [0])
    copies = [row % len(sequences) for row in copies]
    rows = pa.record_batch({"n": pa.array(range(len(sequences) + len(copies)))})
    of = RowResults.all_computed(pa.nulls(rows.num_rows, KEY_FIELD.type))
    block = replace(
        plain,
        slices=(ShardSlice(SHARD, rows, last=True),),
        tokens=replace(plain.tokens, row_of=row_of, n_tokens=np.zeros(len(sequences), np.int32)),
        results=replace(
            of,
            computed=of.computed[: len(sequences)],
            source=np.array([*range(len(sequences)), *copies]),
        ),
    )
    flying: list[list[int]] = []
    watch: Any = SimpleNamespace(
        begin=lambda key, places: flying.append(places[SHARD.id].tolist()), end=lambda key: None
    )
    done: list[int] = []
    task = stand_in()
    device: Any = Device(per_token=False)
    (computed,) = encode(
        device, iter([block]), task, budget, lambda: False,
        lambda rows, tokens: done.append(rows if tokens else 0), watch=watch,
    )  # fmt: skip
    with_sequence = [row for row, count in enumerate(sequences) if count]
    assert computed.complete
    assert computed.rows.all()
    assert sum(done) == sum(row in with_sequence for row in [*range(len(sequences)), *copies])
    assert all(each == sorted(set(each)) for each in flying)
    assert {row for each in flying for row in each} == set(with_sequence)
