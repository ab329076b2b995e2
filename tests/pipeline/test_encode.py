"""Windows through a stand-in for the device: every row comes back to where it stood."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import Block
from pipeline.encode import encode
from pipeline.tokenize.texts import Tokens


class Device:
    """Gives each sequence its first token and its length, or each token itself."""

    def __init__(self, per_token: bool, behind: int = 0) -> None:
        self.per_token = per_token
        self.behind = behind
        self.batches: list[int] = []

    def run(self, batches: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = []
        for batch in batches:
            self.batches.append(batch.tokens)
            waiting.append(batch)
            if len(waiting) > self.behind:
                yield self.compute(waiting.pop(0))
        yield from map(self.compute, waiting)

    def compute(self, batch: Any) -> tuple[Any, Any]:
        if self.per_token:
            return batch, batch.ids[:, None].astype(np.float32)
        firsts = batch.ids[batch.cu_seqlens[:-1]]
        return batch, np.stack([firsts, np.diff(batch.cu_seqlens)], axis=1).astype(np.float32)


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
    return Block((), rows, tokens)


Lengths = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@settings(deadline=None)
@given(st.lists(Lengths, max_size=6), st.integers(1, 60), st.booleans(), st.integers(0, 2))
def test_every_row_comes_back_once_in_order_whatever_the_budget(
    lengths: list[list[int]], budget: int, per_token: bool, behind: int
) -> None:
    blocks = [make_block(each) for each in lengths]
    device = Device(per_token, behind)
    calls = []
    task: Any = SimpleNamespace(per_token=per_token)
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
    assert [block for block, _ in out] == blocks
    for block, outputs in out:
        tokens = block.tokens
        if per_token and tokens.ids.size:
            np.testing.assert_array_equal(outputs[:, 0], tokens.ids)
        elif tokens.ids.size:
            np.testing.assert_array_equal(outputs[:, 0], tokens.ids[tokens.offsets[:-1]])
            np.testing.assert_array_equal(outputs[:, 1], tokens.lengths)
    assert sum(rows for rows, _ in calls) == sum(bool(n) for each in lengths for n in each)
    assert sum(tokens for _, tokens in calls) == sum(n for each in lengths for n in each)
    longest = max((n for each in lengths for n in each), default=0)
    assert all(size <= max(budget, longest) for size in device.batches)


def test_when_stopped_no_block_comes_back_incomplete() -> None:
    blocks = [make_block([5] * 4) for _ in range(3)]
    asked = iter([False] * 6 + [True] * 100)  # four batches of the first, two of the second
    task: Any = SimpleNamespace(per_token=False)
    device: Any = Device(per_token=False)
    out = list(encode(device, iter(blocks), task, 5, lambda: next(asked), lambda *_: None))
    assert [block for block, _ in out] == blocks[:1]
    assert len(device.batches) == 6
