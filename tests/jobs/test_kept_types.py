"""Every type that a kept column may have: what goes in comes out, is sound, and stays."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import parts, texts

from pipeline.output.part_file import read_rows

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
    (pa.large_list(pa.string()), [["x"], []]),
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


def corpus(path: Path) -> pa.Table:
    """A file with a column of each type that its format can hold, named after it, as it is read."""
    columns = {"id": pa.array([0, 1, 2]), "text": pa.array(texts(3))}
    for kind, values in VALUES:
        array = column(kind, values)
        if path.suffix == ".arrow" or in_parquet(array):
            columns[f"{len(columns)} {str(kind).replace(',', ';')}"] = array
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return pq.read_table(path)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return table


def in_parquet(array: pa.Array) -> bool:
    try:
        pq.write_table(pa.table({"": array}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


def in_duckdb(path: Path, schema: pa.Schema) -> str:
    """The columns of a Parquet file as DuckDB reads them; times with a zone as microseconds."""
    zoned = [pa.types.is_timestamp(kind) and kind.tz is not None for kind in schema.types]
    columns = ", ".join(
        f'epoch_us("{name}")' if in_zone else f'"{name}"'
        for name, in_zone in zip(schema.names, zoned, strict=True)
    )
    return repr(duckdb.sql(f"SELECT {columns} FROM '{path}'").fetchall())


#: Types that Parquet does not give back as they were; a job is refused by the column's name.
NOT_IN_PARQUET = ("date64", "month_day_nano", "run_end", "dense_union", "sparse_union")


@pytest.mark.parametrize(
    ("suffix", "written_as"), [("parquet", "arrow"), ("arrow", "arrow"), ("arrow", "parquet")]
)
def test_every_type_is_kept_as_it_is_and_changes_nothing_later(
    submit: Bei, bei: Bei, tmp_path: Path, suffix: str, written_as: str
) -> None:
    path, output = tmp_path / f"corpus.{suffix}", tmp_path / "corpus.embed"
    table = corpus(path)
    names = table.column_names[2:]
    assert len(names) >= len(VALUES) - (5 if suffix == "parquet" else 0)
    if written_as == "parquet":
        names = [name for name in names if not name.split()[1].startswith(NOT_IN_PARQUET)]
        assert len(names) == len(VALUES) - len(NOT_IN_PARQUET)
    words = (path, *(word for name in names for word in ("--keep", name)))
    words = (*words, "--output-format", written_as)
    assert submit(*words).code == 0
    verified = bei("verify", output)
    assert verified.code == 0, verified.out
    written = parts(output)
    again = submit(*words, "--json")
    assert (again.code, again.json["run"], parts(output)) == (0, 1, written)
    found = read_output(bei, output)
    (as_written,) = (read_rows(name, (output / name).read_bytes()) for name in written)
    for name in names:
        assert as_written.schema.field(name).type == table.schema.field(name).type
        assert as_written[name].equals(table[name])
        assert repr(found[name].to_pylist()) == repr(table[name].to_pylist()), name
    if suffix == "parquet":
        pq.write_table(found.select(names), tmp_path / "found.parquet")
        schema = table.schema.remove(1).remove(0)
        assert in_duckdb(tmp_path / "found.parquet", schema) == in_duckdb(path, schema)


def test_what_is_not_utf8_is_an_error_of_its_row_and_no_reader_stumbles_over_it(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    """Neither Parquet nor Arrow checks strings, and polars opens no file with an invalid one."""
    corpus, output = tmp_path / "corpus.arrow", tmp_path / "corpus.embed"
    tags = pa.ListArray.from_arrays(pa.array([0, 1, 1, 2, 3], pa.int32()), raw(b"a", b"b", b"\xff"))
    columns = {
        "id": raw(b"0", b"1\xff", b"2", b"3"),
        "text": raw(b"one", b"same", b"same", b"caf\xe9"),
        "tags": tags,
        "code": pa.DictionaryArray.from_arrays([0, 0, 0, 1], raw(b"a", b"\xfe")),
    }
    table = pa.table(columns)
    with pa.ipc.new_file(corpus, table.schema) as writer:
        writer.write_table(table)
    done = submit(corpus, "--keep", "text,tags,code", "--json")
    assert (done.code, done.json["rows"]["failed"]) == (3, 2)
    assert bei("verify", output).code == 0
    (part,) = parts(output)
    (quarantine,) = (output / "_bei/quarantine").iterdir()
    rows = pl.read_ipc(output / part)
    assert rows["id"].to_list() == ["0", "1\ufffd", "2", "3"]
    assert rows["text"].to_list() == ["one", "same", "same", "caf\ufffd"]
    assert rows["tags"].to_list() == [["a"], [], ["b"], ["\ufffd"]]
    assert rows["code"].to_list() == ["a", "a", "a", "\ufffd"]
    errors = rows["error"].to_list()
    assert (errors[0], errors[2]) == (None, None)  # it has the text of the row before it
    assert errors[1] == "the column 'id' is not valid UTF-8: invalid start byte at byte 1"
    assert "the text is not valid UTF-8" in errors[3]
    assert pl.read_parquet(quarantine)["bei_error"].to_list() == [errors[1], errors[3]]


def raw(*values: bytes) -> pa.Array:
    """Strings with any bytes."""
    return pa.array(values, pa.binary()).view(pa.string())
