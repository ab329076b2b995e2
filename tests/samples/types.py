"""Values of every Arrow type."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WHEN = datetime(2024, 2, 29, 12, 0, 0, 123456)
IDS = [uuid.UUID(int=number).bytes for number in range(2)]
INT64 = pa.int64()
NOT_NULL = {"nullable": False}
CODES = pa.dictionary(pa.int8(), pa.string())

# Type → two values; the third is a null.
VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.uint64(), [2**64 - 1, 0]),
    (INT64, [-(2**63), 2**63 - 1]),
    (pa.float16(), [0.5, 65504.0]),
    (pa.float32(), [1.5, -0.0]),
    (pa.float64(), [5e-324, 1.7976931348623157e308]),
    (pa.decimal32(5, 2), [Decimal("999.99"), Decimal("0.01")]),
    (pa.decimal64(10, 2), [Decimal("1.25"), Decimal("-3.00")]),
    (pa.decimal128(38, 2), [Decimal("9" * 36 + ".99"), Decimal("-0.01")]),
    (pa.decimal256(50, 2), [Decimal("1" * 48 + ".25"), Decimal("0.00")]),
    (pa.string(), ["ä\0b", ""]),
    (pa.large_string(), ["ä", ""]),
    (pa.string_view(), ["ä", "longer than what is inlined"]),
    (pa.binary(), [b"\xff", b""]),
    (pa.large_binary(), [b"\xff", b""]),
    (pa.binary_view(), [b"\xff", b"longer than what is inlined"]),
    (pa.binary(3), [b"abc", b"\0\xff\1"]),
    (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    (pa.date64(), [date(1, 1, 1), date(9999, 12, 31)]),
    (pa.time32("ms"), [time(23, 59, 59, 999000), time(0)]),
    (pa.time64("ns"), [time(23, 59, 59, 999999), time(0)]),
    (pa.timestamp("s"), [datetime(1, 1, 1), datetime(9999, 12, 31)]),
    (pa.timestamp("ms"), [datetime(1, 1, 1), datetime(9999, 12, 31)]),
    (pa.timestamp("us"), [WHEN, datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    (pa.timestamp("ns"), [WHEN, datetime(1700, 1, 1)]),
    (pa.timestamp("us", "UTC"), [WHEN.replace(tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]),
    (pa.timestamp("us", "+00:00"), [WHEN.replace(tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]),
    (pa.timestamp("ms", "Europe/Berlin"), [datetime(2024, 3, 31, 1, tzinfo=UTC)] * 2),
    (pa.duration("us"), [timedelta(1, 2, 3), timedelta(-1)]),
    (pa.month_day_nano_interval(), [(1, 2, 3), (-1, -2, -3)]),
    (pa.null(), [None, None]),
    (CODES, ["a", "b"]),
    (pa.dictionary(pa.int64(), pa.large_string(), ordered=True), ["a", "b"]),
    (pa.dictionary(pa.uint8(), INT64), [1, 2]),
    (pa.list_(INT64), [[1, None], []]),
    (pa.list_(pa.field("element", INT64)), [[1], [2, 3]]),
    (pa.list_(pa.field("item", INT64, **NOT_NULL)), [[1], [2, 3]]),
    (pa.list_(pa.list_(CODES)), [[["a"], []], [["b", "a"]]]),
    (pa.list_(pa.string()), [["x"], []]),
    (pa.large_list(pa.string()), [["x"], []]),
    (pa.list_view(pa.string()), [["x"], []]),
    (pa.list_(INT64, 2), [[1, 2], [3, None]]),
    (pa.list_view(INT64), [[1, 2], [3]]),
    (pa.large_list_view(INT64), [[1, 2], [3]]),
    (pa.struct([("b", pa.string()), ("a", pa.list_(INT64))]), [{"b": "x", "a": [1]}, {}]),
    (pa.struct([pa.field("a", INT64, **NOT_NULL)]), [{"a": 1}, {"a": 2}]),
    (pa.map_(pa.string(), INT64), [[("k", 1), ("l", None)], []]),
    (pa.map_(pa.string(), INT64, keys_sorted=True), [[("a", 1), ("b", 2)], []]),
    (pa.map_(pa.string(), pa.field("n", INT64, **NOT_NULL)), [[("k", 1)], []]),
    (pa.map_(pa.string(), pa.map_(CODES, INT64)), [[("k", [("l", 1)])], []]),
    (pa.list_(pa.map_(pa.string(), INT64)), [[[("k", 1)], []], []]),
    (pa.json_(), ['{"a": 1}', "[]"]),
    (pa.uuid(), IDS),
    (pa.bool8(), [1, 0]),
    (pa.fixed_shape_tensor(pa.float32(), [2]), [[1, 2], [3, 4]]),
    (pa.opaque(INT64, "t", "v"), [1, 2]),
    (pa.run_end_encoded(pa.int32(), pa.string()), ["a", "a"]),
    (pa.dense_union([pa.field("a", INT64), pa.field("b", pa.string())]), []),
    (pa.sparse_union([pa.field("a", INT64), pa.field("b", pa.string())]), []),
]


def column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """The values and a null."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([*values, None], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return pa.RunEndEncodedArray.from_arrays([2, 3], [values[0], None], kind)
    children = [pa.array([1, 2, None]), pa.array(["x", "y", None])]
    if kind.id == pa.lib.Type_DENSE_UNION:
        at = pa.array([0, 1, 2], pa.int32())
        return pa.UnionArray.from_dense(pa.array([0, 1, 0], pa.int8()), at, children, ["a", "b"])
    if kind.id == pa.lib.Type_SPARSE_UNION:
        return pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), children, ["a", "b"])
    return pa.array([*values, None], kind)


def in_parquet(array: pa.Array) -> bool:
    try:
        pq.write_table(pa.table({"": array}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True
