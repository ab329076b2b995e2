"""Rows as they are held and as a part has them: one becomes the other, and back, unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.chunk_rows import RowForm, chunk_problems, first_chunks
from pipeline.part_columns import CUT_FIELD, HELD_FIELDS, ROW_COLUMNS
from pipeline.row_keys import KEY_FIELD

VECTOR = pa.list_(pa.list_(pa.float16(), 3))
TERMS = pa.list_(pa.list_(pa.int32()))


def held(counts: list[int], *, keyed: bool = True) -> pa.Table:
    """A row for each count: so many chunks, or for 0 an error."""
    rows: list[dict[str, Any]] = []
    for row, count in enumerate(counts):
        sizes = [10 * (n + 1) for n in range(count)]
        results = {
            "chunk_start": [7 * n for n in range(count)],
            "chunk_end": [7 * n + 6 for n in range(count)],
            "chunk_tokens": sizes,
            "embedding": [[np.float16(row), np.float16(n), np.float16(0.5)] for n in range(count)],
            "terms": [list(range(n)) for n in range(count)],
        }
        rows.append(
            {
                "id": row,
                "tags": ["a"] * (row % 3),
                **(results if count else {}),
                "n_tokens": sum(sizes),
                "truncated": False,
                "error": None if count else "it failed",
                "_tokens_cut": 0,
                "row_key": bytes([row]) * 16,
            }
        )
    results = [*HELD_FIELDS, pa.field("embedding", VECTOR), pa.field("terms", TERMS)]
    kept = [pa.field("id", pa.int64()), pa.field("tags", pa.list_(pa.string()))]
    last = [*ROW_COLUMNS, CUT_FIELD, *([KEY_FIELD] if keyed else [])]
    return pa.Table.from_pylist(rows, schema=pa.schema([*kept, *results, *last]))


@given(st.lists(st.integers(0, 4), max_size=12), st.booleans(), st.integers(0, 3))
@settings(deadline=None)
def test_a_part_is_folded_into_the_rows_that_it_was_made_of(
    counts: list[int], keyed: bool, start: int
) -> None:
    form = RowForm(2, keyed=keyed, chunked=True)
    rows = held(counts, keyed=keyed).slice(min(start, len(counts)))
    part, lost = form.to_part(rows)
    part.validate(full=True)
    assert part.schema == form.part_schema(rows.schema)
    assert part.num_rows == lost.chunks == sum(max(1, n) for n in counts[start:])
    assert lost.cut == 0
    assert not [*chunk_problems(part, ["id", "tags", "n_tokens", "error"])]
    assert first_chunks(part)["id"].to_pylist() == rows["id"].to_pylist()
    again = form.to_held(part, {b"bei.chunks": b"1", b"bei.truncated": b"0"})
    again.validate(full=True)
    assert again.schema == rows.schema
    assert again.to_pylist() == rows.to_pylist()


def test_rows_of_a_part_whose_columns_are_in_several_pieces_are_folded_too() -> None:
    form = RowForm(2, keyed=True, chunked=True)
    rows = held([2, 0, 3])
    part = form.to_part(rows)[0]
    pieces = pa.concat_tables([part.slice(0, 1), part.slice(1, 3), part.slice(4)])
    assert form.to_held(pieces, {}).to_pylist() == rows.to_pylist()


@pytest.mark.parametrize("cut", [0, 1, 7, 1000])
def test_what_was_cut_of_a_part_is_shared_by_its_truncated_rows_without_a_rest(cut: int) -> None:
    form = RowForm(0, keyed=False, chunked=False)
    truncated = [True, False, True, True, False]
    part = pa.table(
        {"n_tokens": [5] * 5, "truncated": truncated, "error": pa.nulls(5, pa.string())}
    )
    values = {b"bei.truncated": b"3", b"bei.cut": str(cut).encode()}
    rows = form.to_held(part, values)
    shares = rows[CUT_FIELD.name].to_pylist()
    assert sum(shares) == cut
    assert shares[1] == shares[4] == 0
    assert form.to_part(rows)[1].cut == cut
    # A part of an earlier version says nothing, and then nothing is known.
    unknown = form.to_held(part, {b"bei.truncated": b"3"})
    assert unknown[CUT_FIELD.name].to_pylist() == [None, 0, None, None, 0]
    assert form.to_part(unknown)[1].cut is None


def test_chunks_in_another_order_or_of_another_row_are_problems() -> None:
    part = RowForm(2, keyed=True, chunked=True).to_part(held([3, 2]))[0]
    same = ["id", "tags", "n_tokens", "truncated", "error", "row_key"]
    for order, problem in (
        ([0, 2, 1, 3, 4], "numbered one after another"),
        ([0, 2, 3, 4], "numbered one after another"),
        ([1, 2, 3, 4], "begins within a row"),
        ([0, 1, 1, 2, 3, 4], "numbered one after another"),
        ([0, 4, 2, 3, 4], "id differs between the chunks of a row"),
    ):
        found = [*chunk_problems(part.take(pa.array(order)), same)]
        assert any(problem in each for each in found), (order, found)
