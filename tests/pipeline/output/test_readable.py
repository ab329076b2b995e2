"""Strings at any depth of a column, of which some are not valid UTF-8."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.output.readable import invalid_rows, readable

BAD = pa.array([b"a", b"\xff", None, b"caf\xe9", b"b"]).view(pa.string())
LARGE = pa.array([b"a", b"\xff", None], pa.large_binary()).view(pa.large_string())
CODES = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], pa.int8()), BAD.take([0, 1, 4]))
OFFSETS, GAP = pa.array([0, 1, 3, 3, 5], pa.int32()), pa.array([False, False, True, False])
LISTS = pa.ListArray.from_arrays(OFFSETS, BAD, mask=GAP)
SIZES = pa.array([2, 1, 2], pa.int32())


@pytest.mark.parametrize(
    ("array", "expected", "rows"),
    [
        (BAD, ["a", "\ufffd", None, "caf\ufffd", "b"], [1, 3]),
        (LARGE, ["a", "\ufffd", None], [1]),
        (LARGE.cast(pa.large_binary()).cast(pa.string_view(), safe=False), None, [1]),
        (CODES, ["a", "\ufffd", "b", "a"], [1]),
        (LISTS, [["a"], ["\ufffd", None], None, ["caf\ufffd", "b"]], [1, 3]),
        (LISTS.cast(pa.large_list(pa.string())), None, [1, 3]),
        (pa.ListArray.from_arrays(pa.array([0, 3, 4], pa.int32()), CODES), None, [0]),
        (
            pa.ListViewArray.from_arrays(pa.array([3, 0, 1], pa.int32()), SIZES, BAD),
            [["caf\ufffd", "b"], ["a"], ["\ufffd", None]],
            [0, 2],
        ),
        (pa.FixedSizeListArray.from_arrays(BAD.take([0, 4, 0, 1]), 2), None, [1]),
        (pa.StructArray.from_arrays([LISTS], ["l"], mask=GAP), None, [1, 3]),
        (
            pa.MapArray.from_arrays(OFFSETS, BAD.take([0, 1, 4, 3, 0]), BAD),
            [
                [("a", "a")],
                [("\ufffd", "\ufffd"), ("b", None)],
                [],
                [("caf\ufffd", "caf\ufffd"), ("a", "b")],
            ],
            [1, 3],
        ),
        (pa.ExtensionArray.from_storage(pa.json_(), BAD), None, [1, 3]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None], []),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_invalid_bytes_are_replaced_and_their_rows_named(
    array: pa.Array, expected: list[object] | None, rows: list[int]
) -> None:
    for first in (0, 1):
        part = array.slice(first)
        fixed = readable(part)
        fixed.validate(full=True)
        assert (fixed.type, len(fixed), fixed.null_count) == (part.type, len(part), part.null_count)
        found = invalid_rows(pa.record_batch([part], ["c"]), ["c"])
        assert [*found] == [row - first for row in rows if row >= first]
        assert expected is None or fixed.to_pylist() == expected[first:]
        for row in range(len(part)):
            if row in found:
                assert "\ufffd" in repr(fixed[row].as_py())
            else:
                assert fixed[row].as_py() == part[row].as_py()
