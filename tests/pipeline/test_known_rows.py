"""Where results come from: whatever is held, dropped or copied, every row gets its own."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.known_rows import Duplicates, KnownRows, Origin, RowResults
from pipeline.output.copies import Copies
from pipeline.row_keys import key_values, row_keys

PART = "part-c.parquet-00000000-{:012}-0123456789abcdef.arrow"


class Part:
    """An earlier part that holds some texts."""

    def __init__(self, texts: set[str]) -> None:
        self._keys = {row_keys(batch([text]), ("text",))[0].as_py(): text for text in texts}

    def copies(self, shard: object, first: int, keys: pa.Array) -> list[Any]:
        there = [row for row, key in enumerate(keys.to_pylist()) if key in self._keys]
        texts = [self._keys[keys[row].as_py()] for row in there]
        return [(np.array(there, dtype=np.int64), results(texts))] if there else []


def batch(texts: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def results(texts: list[str | None]) -> pa.Table:
    values = {"text": texts, "result": [f"of {text}" for text in texts]}
    return pa.table(values, pa.schema([("text", pa.string()), ("result", pa.string())]))


def found(of: RowResults, own: pa.Table, duplicates: Duplicates) -> list[str]:
    """The result of each row, as a builder of rows looks it up."""
    assert of.earlier is not None
    later = [duplicates.results(int(n)).slice(int(row), 1) for n, row in of.earlier]
    table = pa.concat_tables([own, *of.copied, *later])
    taken: list[str] = table["result"].take(pa.array(of.source)).to_pylist()
    return taken


Text = st.integers(0, 12).map(str)
Texts = st.lists(st.none() | Text, max_size=12)


@given(Texts, st.data())
def test_the_values_of_keys_are_those_of_their_array(texts: list[str | None], data: Any) -> None:
    start = data.draw(st.integers(0, len(texts)))
    keys = row_keys(batch(texts), ("text",))[start:]

    assert key_values(keys) == [key or b"" for key in keys.to_pylist()]


@settings(deadline=None)
@given(
    st.lists(Texts, max_size=25),
    st.integers(0, 3),
    st.sampled_from([0, 2000, 10**9]),
    st.sets(Text, max_size=3),
)
def test_every_row_gets_the_result_of_its_text(
    blocks: list[list[str | None]], behind: int, limit: int, earlier: set[str]
) -> None:
    duplicates = Duplicates(limit)
    known = KnownRows(("text",), Part(earlier), duplicates)  # type: ignore[arg-type]
    waiting: deque[tuple[int, list[str | None], RowResults]] = deque()
    computed: list[str | None] = []

    def finish() -> None:
        number, texts, of = waiting.popleft()
        new = [texts[row] for row in of.computed]
        computed.extend(new)
        own = results(new)
        assert found(of, own, duplicates) == [f"of {text}" for text in texts]
        assert [texts[row] in earlier for row in range(len(texts))] == [
            origin == Origin.REUSED for origin in of.origin
        ]
        assert of.sharing().sum() == len(texts) - sum(of.source >= len(new))
        duplicates.store(number, own)

    for number, texts in enumerate(blocks):
        resolved = known.resolve(number, [(None, 0, batch(texts))])  # type: ignore[list-item]
        waiting.append((number, texts, resolved))
        if len(waiting) > behind:
            finish()
    while waiting:
        finish()
    assert not earlier.intersection(computed)
    if limit == 10**9:
        unequal = [text for text in computed if text is not None]
        assert len(unequal) == len(set(unequal))
        assert len(computed) - len(unequal) == sum(texts.count(None) for texts in blocks)


def test_what_is_held_for_duplicates_is_bounded() -> None:
    duplicates = Duplicates(100_000)
    known = KnownRows(("text",), Part(set()), duplicates)  # type: ignore[arg-type]
    for block in range(50):
        texts = [f"{block} {row}" for row in range(100)]
        rows = batch(list(texts))
        known.resolve(block, [(None, 0, rows)])  # type: ignore[list-item]
        duplicates.store(block, results(texts))

    assert (duplicates.find(row_keys(rows, ("text",)).to_pylist())[:, 0] == 49).all()
    held = [n for n in range(50) if n in duplicates]
    assert 2 <= len(held) <= 5
    assert held[-1] == 49


def test_blocks_of_an_attempt_that_ended_are_not_referred_to() -> None:
    duplicates = Duplicates()
    rows = batch(["a", "b"])
    for _ in range(2):  # the first attempt dies before its block is computed
        known = KnownRows(("text",), Part(set()), duplicates)  # type: ignore[arg-type]
        of = known.resolve(0, [(None, 0, rows)])  # type: ignore[list-item]
        assert len(of.computed) == 2
    duplicates.store(0, results(["a", "b"]))
    known = KnownRows(("text",), Part(set()), duplicates)  # type: ignore[arg-type]
    assert len(known.resolve(0, [(None, 0, rows)]).computed) == 0  # type: ignore[list-item]


@pytest.mark.parametrize(
    "source", [("s3://elsewhere/o", PART.format(1)), ("", f"../{PART.format(1)}"), ("", "x")]
)
def test_copies_name_nothing_but_parts_of_the_outputs_that_were_searched(
    source: tuple[str, str],
) -> None:
    zeros = np.zeros(3, dtype=np.int32)
    with pytest.raises(ValueError, match="not a part to copy from"):
        Copies.from_bytes(Copies((source,), zeros, zeros).to_bytes(), 3, {"", "s3://b/o"})


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5)), min_size=1, max_size=60))
def test_copies_come_back_as_they_were_stored(pairs: list[tuple[int, int]]) -> None:
    source = np.array([source for source, _ in pairs], dtype=np.int32)
    row = np.array([row for _, row in pairs], dtype=np.int32)
    sources = tuple(("s3://b/o" * (n % 2), PART.format(n)) for n in range(4))

    back = Copies.from_bytes(Copies(sources, source, row).to_bytes(), len(pairs), {"", "s3://b/o"})

    assert back.sources == sources
    assert back.source.tolist() == source.tolist()
    there = source >= 0
    assert back.row[there].tolist() == row[there].tolist()
