"""A few rows of views and dictionaries hold their own values, not those of a whole file."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.input.compact import compact

LONG = [f"{i}-" + "x" * 500 for i in range(2000)]

ARRAYS: dict[str, Any] = {
    "string views": lambda: pa.array(LONG, pa.string_view()),
    "binary views": lambda: pa.array([t.encode() for t in LONG], pa.binary_view()),
    "lists of views": lambda: pa.array([[t, None] for t in LONG], pa.list_(pa.string_view())),
    "structs of views": lambda: pa.array(
        [{"a": t} for t in LONG], pa.struct([("a", pa.string_view())])
    ),
    "maps of views": lambda: pa.array(
        [[("k", t)] for t in LONG], pa.map_(pa.string(), pa.string_view())
    ),
    "list views": lambda: pa.array([[t] for t in LONG], pa.list_view(pa.string())),
    "large list views of views": lambda: pa.array(
        [[t] for t in LONG], pa.large_list_view(pa.string_view())
    ),
    "dictionaries": lambda: pa.array(LONG).dictionary_encode(),
    "small indices": lambda: pa.DictionaryArray.from_arrays(
        pa.array([i % 100 for i in range(2000)], pa.int8()), pa.array(LONG[:100]), ordered=True
    ),
}


def stored(batch: pa.RecordBatch) -> int:
    sink = pa.MockOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return int(sink.size())


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("nulls", [False, True])
def test_a_slice_holds_its_own_values_alone(name: str, nulls: bool) -> None:
    array = ARRAYS[name]()
    if nulls:
        array = pa.array([None, *array.slice(1).to_pylist()], array.type)
    some = pa.record_batch({"id": pa.array(range(2000)), "a": array}).slice(0, 10)
    held = compact(some)
    assert stored(some) > 50_000
    assert stored(held) < 12_000
    assert held.schema == some.schema
    assert held.to_pylist() == some.to_pylist()
    held.validate(full=True)


def test_what_shares_nothing_is_the_same_object() -> None:
    batch = pa.record_batch({"id": pa.array([1, 2]), "a": pa.array(["a", "b"])})
    assert compact(batch) is batch
