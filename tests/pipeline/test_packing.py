"""Packing covers every sequence once, within the budget, whatever the lengths."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.packing import gather, pack

lengths = st.lists(st.integers(0, 700), max_size=200)


@given(lengths, st.integers(1, 2048))
def test_every_sequence_is_in_exactly_one_batch(sizes: list[int], budget: int) -> None:
    batches = pack(sizes, budget)

    assert sorted(np.concatenate([*batches, np.array([], int)])) == list(range(len(sizes)))


@given(lengths, st.integers(1, 2048))
def test_a_batch_stays_within_the_budget_unless_it_is_one_long_sequence(
    sizes: list[int], budget: int
) -> None:
    for batch in pack(sizes, budget):
        assert sum(sizes[i] for i in batch) <= budget or len(batch) == 1


@given(lengths, st.integers(1, 2048))
def test_no_two_neighbouring_batches_would_have_fitted_into_one(
    sizes: list[int], budget: int
) -> None:
    batches = pack(sizes, budget)
    for left, right in pairwise(batches):
        first_of_next = sizes[right[0]]
        assert sum(sizes[i] for i in left) + first_of_next > budget


@given(lengths, st.integers(1, 2048))
def test_the_longest_come_first(sizes: list[int], budget: int) -> None:
    order = [sizes[i] for batch in pack(sizes, budget) for i in batch]

    assert order == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("sizes", "budget"), [([1], 0), ([-1], 5)])
def test_nonsense_is_refused(sizes: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match=r"token_budget|negative"):
        pack(sizes, budget)


@given(st.lists(st.lists(st.integers(0, 30_000), max_size=9), min_size=1, max_size=30), st.data())
def test_gather_copies_the_tokens_of_the_named_sequences_in_order(
    texts: list[list[int]], data: st.DataObject
) -> None:
    flat = np.array([t for text in texts for t in text], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    chosen = data.draw(st.permutations(range(len(texts))))[: data.draw(st.integers(0, len(texts)))]
    types = (flat % 2).astype(np.int8)

    batch = gather(flat, offsets, np.array(chosen, dtype=np.int64), types)

    got = [batch.ids[a:b].tolist() for a, b in pairwise(batch.cu_seqlens)]
    assert got == [texts[i] for i in chosen]
    assert batch.tokens == sum(map(len, got))
    assert batch.max_seqlen == max(map(len, got), default=0)
    assert batch.type_ids is not None
    assert batch.type_ids.tolist() == [t % 2 for text in got for t in text]
