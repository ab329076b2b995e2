"""Parquet as pyarrow, polars, DuckDB and pandas write it, with what the format can do."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Iterator
from datetime import time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from samples.sample import REFUSED, SAME, Sample, written
from samples.values import (
    CODES,
    DATES,
    FLOATS,
    INTS,
    NEAR,
    TEXTS,
    TIMES,
    by_duckdb,
    by_pandas,
    by_polars,
)

CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
_ENCODED = {
    "n": "DELTA_BINARY_PACKED", "key": "DELTA_LENGTH_BYTE_ARRAY", "text": "DELTA_BYTE_ARRAY",
    "f": "BYTE_STREAM_SPLIT",
}  # fmt: skip


def table(**columns: Any) -> pa.Table:
    """Texts, and columns of at most as many values, which nulls fill up."""
    filled = {
        name: values
        if isinstance(values, (pa.Array, pa.ChunkedArray)) and len(values) == len(TEXTS)
        else pa.array([*values, *[None] * (len(TEXTS) - len(values))])
        for name, values in columns.items()
    }
    return pa.table({"text": TEXTS, **filled})


def typed(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """Values of a type, and nulls up to the number of texts."""
    return pa.array([*values, *[None] * (len(TEXTS) - len(values))], kind)


def _extension(kind: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, typed(kind.storage_type, values))


PLAIN = table(n=INTS)


def parquet(data: pa.Table, **options: Any) -> bytes:
    """A Parquet file by pyarrow."""
    sink = io.BytesIO()
    pq.write_table(data, sink, **options)
    return sink.getvalue()


def _in_groups(*groups: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, PLAIN.schema) as writer:
        for group in groups:
            writer.write_table(group)
    return sink.getvalue()


def _lzo() -> bytes:
    """The codec that pyarrow cannot write, by its number: of the one column, in the footer."""
    data = bytearray(parquet(pa.table({"text": ["a"]}), compression="none", use_dictionary=False))
    at = data.index(b"\x19\x18\x04text\x15") + 8
    data[at] = 3 << 1
    return bytes(data)


class _Keys(pe.KmsClient):
    """Keys that wrap themselves."""

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
        return base64.b64decode(wrapped)


def encrypted(plaintext_footer: bool) -> bytes:
    """A file whose texts need a key; its other column does not."""
    sink, factory = io.BytesIO(), pe.CryptoFactory(lambda _: _Keys())
    keys = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), keys)
    with pq.ParquetWriter(sink, PLAIN.schema, encryption_properties=properties) as writer:
        writer.write_table(PLAIN)
    return sink.getvalue()


def _pages() -> Iterator[tuple[str, bytes]]:
    """How values are stored."""
    for codec in CODECS:
        yield f"codec {codec}", parquet(PLAIN, compression=codec)
    for codec in CODECS:
        data = parquet(PLAIN, compression=codec, data_page_version="2.0")
        yield f"codec {codec}, data pages v2", data
    yield "codec LZO", _lzo()
    for version in ("1.0", "2.4", "2.6"):
        yield f"format version {version}", parquet(PLAIN, version=version)
    yield "PLAIN", parquet(PLAIN, use_dictionary=False)
    encoded = table(n=INTS, key=CODES, f=FLOATS)
    yield (
        ", ".join(_ENCODED.values()),
        parquet(encoded, use_dictionary=False, column_encoding=_ENCODED),
    )
    many = pa.table({"text": [f"t{i}" * 9 for i in range(5000)], "n": range(5000)})
    yield (
        "a dictionary that grows too large, and goes on as PLAIN",
        parquet(many, dictionary_pagesize_limit=20_000, data_page_size=4096),
    )
    yield (
        "page index and page checksums",
        parquet(PLAIN, write_page_index=True, write_page_checksum=True),
    )
    yield "encrypted, footer too", encrypted(plaintext_footer=False)
    yield "encrypted columns, plain footer", encrypted(plaintext_footer=True)
    yield "no rows", parquet(PLAIN.slice(0, 0))
    yield "no row group", _in_groups()
    yield "a row group for each row", parquet(PLAIN, row_group_size=1)
    empty = PLAIN.slice(0, 0)
    yield "empty row groups", _in_groups(empty, PLAIN.slice(0, 3), empty, PLAIN.slice(3), empty)
    wide = {"text": ["a"], **{f"column {number}": [number] for number in range(800)}}
    yield "800 columns, a footer of more than 64 KiB", parquet(pa.table(wide))
    yield "a text of 3 MB", parquet(pa.table({"text": ["y" * 3_000_000, "b"]}))


def _values() -> Iterator[tuple[str, pa.Table, dict[str, Any]]]:
    """What the values are."""
    structs = [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": None}, {"a": 2, "b": {"c": None}}]
    lists = [[{"a": [1, None], "b": "x"}], [], None, [None], [{"a": None, "b": None}]]
    maps = [[("a", 1)], [], None, [("b", None)], [("a", 1), ("b", 2)]]
    large, small = Decimal("9" * 36 + ".99"), Decimal("-0.01")
    ids = [uuid.UUID(int=7**row).bytes for row in range(5)]
    yield "integers", table(
        u1=typed(pa.uint8(), [255, 0]), u2=typed(pa.uint16(), [65535, 0]),
        u4=typed(pa.uint32(), [2**32 - 1, 0]), u8=typed(pa.uint64(), [2**64 - 1, 0]),
        i1=typed(pa.int8(), [-128, 127]), i2=typed(pa.int16(), [-(2**15)]),
        i4=typed(pa.int32(), [-(2**31)]), i8=INTS,
    ), {}  # fmt: skip
    yield "floats, float16 too", table(
        f2=typed(pa.float16(), [0.5, 65504.0, -0.0, float("nan"), 6e-8]),
        f4=typed(pa.float32(), FLOATS[:5]), f8=FLOATS,
    ), {}  # fmt: skip
    decimals = table(
        a=typed(pa.decimal128(6, 2), [Decimal("9999.99"), None, small]),
        b=typed(pa.decimal128(17, 2), [Decimal("9" * 15 + ".99"), None, small]),
        c=typed(pa.decimal128(38, 2), [large, None, small]),
    )
    yield "decimals", decimals, {}
    yield "decimals as integers", decimals, {"store_decimal_as_integer": True}
    yield "dates", table(a=typed(pa.date32(), DATES), b=typed(pa.date64(), DATES)), {}
    clock = [time(0), time(23, 59, 59, 999000), None, time(12)]
    yield "times of day in s, ms, us and ns", table(
        s=typed(pa.time32("s"), [time(0), time(23, 59, 59)]), ms=typed(pa.time32("ms"), clock),
        us=typed(pa.time64("us"), clock), ns=typed(pa.time64("ns"), clock),
    ), {}  # fmt: skip
    for unit in ("s", "ms", "us", "ns"):
        yield f"timestamps in {unit}, with zones and without", table(
            plain=typed(pa.timestamp(unit), NEAR), utc=typed(pa.timestamp(unit, "UTC"), NEAR),
            berlin=typed(pa.timestamp(unit, "Europe/Berlin"), NEAR),
            offset=typed(pa.timestamp(unit, "+05:30"), NEAR),
        ), {}  # fmt: skip
    far = table(a=typed(pa.timestamp("us"), TIMES), b=typed(pa.timestamp("us", "UTC"), TIMES))
    yield "years 1 to 9999", far, {}
    yield (
        "INT96, the timestamps of Hive and Impala",
        far.select(["text", "a"]),
        {"use_deprecated_int96_timestamps": True},
    )
    yield "durations", table(d=typed(pa.duration("us"), [timedelta(1), timedelta(-1)])), {}
    yield "UUID", table(u=_extension(pa.uuid(), ids)), {}
    yield "JSON", table(j=_extension(pa.json_(), ['{"a": 1}', "[]", "null", None, "1e400"])), {}
    yield "bytes, of fixed width too", table(
        b=typed(pa.binary(), [b"\xff\0", b""]), f=typed(pa.binary(3), [b"abc", b"\0\xff\1"])
    ), {}  # fmt: skip
    yield "structs", table(s=structs), {}
    yield "lists of structs of lists", table(items=lists), {}
    yield (
        "lists by the old rules",
        table(items=[[1], [], None, [2, None]]),
        {"use_compliant_nested_type": False},
    )
    yield "maps", table(m=typed(pa.map_(pa.string(), pa.int64()), maps)), {}
    yield "lists of fixed size", table(v=typed(pa.list_(pa.float32(), 2), [[1, 2], [3, None]])), {}
    yield "dictionaries", table(c=pa.array(CODES).dictionary_encode()), {}
    yield "no Arrow schema in the footer", table(
        c=pa.array(CODES).dictionary_encode(), t=typed(pa.timestamp("us", "Europe/Berlin"), TIMES)
    ), {"store_schema": False}  # fmt: skip
    yield "columns of nulls", table(n=pa.nulls(len(TEXTS)), i=pa.nulls(len(TEXTS), pa.int32())), {}
    required = [pa.field("text", pa.string(), nullable=False), pa.field("n", pa.int64(), False)]
    yield "required columns", pa.table([["a", ""], [1, 2]], schema=pa.schema(required)), {}
    yield "odd column names", table(**{"a.b": INTS, "ü ü": INTS, 'q"': INTS, "TEXT": INTS}), {}
    yield "the text a dictionary", table(n=INTS).set_column(
        0, "text", pa.array(TEXTS).dictionary_encode()
    ), {}  # fmt: skip
    yield "the text of another layout (views)", table(n=INTS).set_column(
        0, "text", pa.array(TEXTS, pa.string_view())
    ), {}  # fmt: skip
    yield "the text bytes without a type", pa.table({"text": [b"abc"]}), {}
    yield "the text JSON", table(n=INTS).set_column(0, "text", _extension(pa.json_(), ["1"])), {}
    yield "two columns of one name", pa.table([TEXTS, INTS, INTS], ["text", "n", "n"]), {}


_DIFFERS = {
    "codec LZO": REFUSED,
    "encrypted, footer too": REFUSED,
    "encrypted columns, plain footer": REFUSED,
    "the text bytes without a type": "bytes",
    "the text JSON": "JSON",
    "two columns of one name": "other names of columns",
}
_DUCKDB = (
    "hugeint::hugeint h, '550e8400-e29b-41d4-a716-446655440000'::uuid u, 'a'::enum('a', 'b') e, "
    "'0101'::bit b, time '12:00:00' t, timestamp_s '2024-01-01' s, timestamp_ms '2024-01-01' ms, "
    "timestamp_ns '2024-01-01' ns, timestamptz '2024-01-01 00:00:00+00' z, "
    "{'a': 1, 'b': [1, 2]} st, map{'k': 1} m, [1, 2, NULL] l, 1.5::decimal(4, 1) d, "
    "'{\"a\":1}'::json j, 255::utinyint ut, 1e300 db, 'x'::blob bl, date '9999-12-31' da, "
    "true bo, array[1, 2]::int[2] ar, [{'a': [1]}] ls"
).replace("hugeint::", "170141183460469231731687303715884105727::")
_BY_DUCKDB = (
    ("DuckDB, its types", _DUCKDB, SAME),
    ("DuckDB, an interval", "interval '1 month 2 days' v", "an interval; here its 12 bytes"),
    ("DuckDB, a time with a zone", "timetz '12:00:00+02' v", "10:00 UTC; here 10:00"),
    ("DuckDB, a variant", "1::variant v", "the value; here metadata and value as bytes"),
    ("DuckDB, a geometry", "'POINT(1 2)'::geometry v", "a geometry; here WKB as bytes"),
)


def parquet_samples() -> Iterator[Sample]:
    """One file for each thing that a Parquet file may be."""
    for what, data in _pages():
        yield Sample(what, "rows.parquet", data, _DIFFERS.get(what, SAME))
    for what, rows, options in _values():
        data = parquet(rows, **options)
        yield Sample(what, "rows.parquet", data, _DIFFERS.get(what, SAME))
    for what, columns, differs in _BY_DUCKDB:
        yield Sample(what, "rows.parquet", by_duckdb(columns), differs)
    newest = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd"
    yield Sample("DuckDB, PARQUET_VERSION v2", "rows.parquet", by_duckdb(_DUCKDB, newest))
    frame = by_polars()
    for codec in ("zstd", "gzip", "lz4", "snappy"):
        small: dict[str, Any] = {"row_group_size": 3, "data_page_size": 64}
        write = partial(frame.write_parquet, compression=codec, **small)
        yield Sample(f"polars, codec {codec}", "rows.parquet", written(".parquet", write))
    wide = pl.DataFrame({"text": ["a"], "i": pl.Series([2**100], dtype=pl.Int128)})
    bits = written(".parquet", wide.write_parquet)
    yield Sample("polars, 128-bit integers", "rows.parquet", bits, "bytes")
    panda = by_pandas()
    yield Sample("pandas", "rows.pq", written(".parquet", panda.to_parquet))
    indexed = panda.iloc[::2].set_index(pd.Index(list("abcd")))
    yield Sample("pandas, with an index", "rows.parquet", written(".parquet", indexed.to_parquet))
