from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from input_plans import plan_of

from pipeline.errors import AccessDenied, InputChanged, InputError, StorageError
from pipeline.input.cuts import cut_file
from pipeline.input.discovery import ListedFile, discover
from pipeline.input.formats import text as text_format
from pipeline.input.reading import inspect, read
from pipeline.shards import Cut, InputFile
from pipeline.store.directory import Directory, file_info

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string())])
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


def table(rows: int) -> pa.Table:
    texts = [f'text {i}, "quoted"\nüñí {"x" * (i % 50)}' for i in range(rows)]
    return pa.table({"id": [f"id-{i}" for i in range(rows)], "text": texts})


def parquet(data: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(data, sink, **options)
    return sink.getvalue()


def arrow_file(data: pa.Table, chunk: int = 1000, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, data.schema, **options) as writer:
        writer.write_table(data, max_chunksize=chunk)
    return sink.getvalue()


def arrow_stream(data: pa.Table, chunk: int = 1000) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=chunk)
    return sink.getvalue()


def jsonl(data: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in data.to_pylist()).encode()


def csv_text(data: pa.Table) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(data.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in data.columns), strict=True))
    return sink.getvalue().encode()


WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "rows.parquet": lambda data: parquet(data, row_group_size=700),
    "rows.arrow": arrow_file,
    "rows.feather": lambda data: arrow_file(
        data, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ),
    "rows.arrows": arrow_stream,
    "rows.jsonl": jsonl,
    "rows.jsonl.gz": lambda data: gzip.compress(jsonl(data)),
    "rows.jsonl.zst": lambda data: zstandard.compress(jsonl(data)),
    "rows.csv": csv_text,
    "rows.csv.gz": lambda data: gzip.compress(csv_text(data)),
    "rows.csv.zst": lambda data: zstandard.compress(csv_text(data)),
}


def put(root: str, name: str, data: bytes) -> str:
    directory = Directory(root)
    directory.put(name, data)
    return directory.uri_of(name)


def planned(listed: ListedFile, rows_per_shard: int) -> tuple[InputFile, list[Cut]]:
    summary = inspect(listed, None, rows_per_shard)
    cuts = cut_file(summary.rows, summary.row_groups, rows_per_shard)
    if summary.row_groups is None:
        cuts = [
            Cut(cut.first_row, cut.rows, offset)
            for cut, offset in zip(cuts, summary.offsets, strict=True)
        ]
    file = InputFile(
        listed.uri, listed.path, listed.version, listed.size, summary.rows, listed.format,
        listed.compression, listed.partition,
    )  # fmt: skip
    return file, cuts


def rows_of(
    file: InputFile,
    cuts: Sequence[Cut],
    schema: pa.Schema = SCHEMA,
    batch_rows: int = 128,
) -> list[pa.Table]:
    """The rows of each cut, whatever the batches were."""
    batches: list[list[pa.RecordBatch]] = [[] for _ in cuts]
    for index, batch in read(file, cuts, schema, batch_rows):
        assert 0 < batch.num_rows <= batch_rows
        assert batch.schema == schema
        batches[index].append(batch)
    return [pa.Table.from_batches(of_cut, schema) for of_cut in batches]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_on_every_store_gives_every_row_once(store_uri: str, name: str) -> None:
    data = table(2500)
    uri = put(store_uri, name, WRITERS[name](data))
    file, cuts = planned(discover([uri])[0], 1000)
    assert file.rows == 2500
    parts = rows_of(file, cuts)
    assert [part.num_rows for part in parts] == [cut.rows for cut in cuts]
    assert pa.concat_tables(parts).equals(data.cast(SCHEMA))


@pytest.mark.parametrize("name", WRITERS)
def test_any_selection_of_shards_can_be_read_alone(tmp_path: Path, name: str) -> None:
    data = table(2500)
    uri = put(str(tmp_path), name, WRITERS[name](data))
    file, cuts = planned(discover([uri])[0], 300)
    whole = data.cast(SCHEMA)
    for chosen in ([cuts[-1]], cuts[1:3], cuts[::2], [cuts[0], cuts[-1]]):
        for cut, part in zip(chosen, rows_of(file, chosen), strict=True):
            assert part.equals(whole.slice(cut.first_row, cut.rows))


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("writer", [parquet, arrow_file])
def test_every_kind_of_string_becomes_a_large_string(
    tmp_path: Path, kind: pa.DataType, writer: Callable[[pa.Table], bytes]
) -> None:
    texts = ["a", None, "", "ü" * 20, "a"]
    data = pa.table({"text": pa.array(texts).cast(kind)})
    name = "rows.parquet" if writer is parquet else "rows.arrow"
    file, cuts = planned(discover([put(str(tmp_path), name, writer(data))])[0], 10)
    schema = pa.schema([("text", pa.large_string())])
    assert rows_of(file, cuts, schema)[0]["text"].to_pylist() == texts


@pytest.mark.parametrize(
    "kind",
    [
        pa.int32(),
        pa.decimal128(10, 2),
        pa.timestamp("us", "UTC"),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.int64()),
        pa.binary(),
    ],
    ids=str,
)
def test_kept_columns_come_with_their_type_unchanged(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([None] * 3, pa.null()).cast(kind)
    data = pa.table({"kept": values, "text": ["a", "b", "c"], "other": [1, 2, 3]})
    file, cuts = planned(discover([put(str(tmp_path), "rows.parquet", parquet(data))])[0], 10)
    schema = pa.schema([("kept", kind), ("text", pa.large_string())])
    assert rows_of(file, cuts, schema)[0].schema == schema


def test_timestamps_of_spark_are_what_duckdb_reads(tmp_path: Path) -> None:
    """INT96, which older writers use, holds more years than 64 bits of nanoseconds."""
    times = [datetime(1, 1, 1), datetime(1970, 1, 1), None, datetime(9999, 12, 31, 23, 59, 59)]
    data = pa.table({"kept": pa.array(times, pa.timestamp("us")), "text": ["a"] * 4})
    uri = put(str(tmp_path), "rows.parquet", parquet(data, use_deprecated_int96_timestamps=True))
    file, cuts = planned(discover([uri])[0], 10)
    schema = pa.schema([("kept", pa.timestamp("us"))])

    read = rows_of(file, cuts, schema)[0]["kept"].to_pylist()

    expected = duckdb.sql(f"SELECT kept FROM '{uri}'").fetchall()
    assert read == [row[0] for row in expected] == times


def test_a_column_that_cannot_be_cast_is_refused_by_name(tmp_path: Path) -> None:
    data = pa.table({"id": [1, 2**40], "text": ["a", "b"]})
    file, cuts = planned(discover([put(str(tmp_path), "rows.parquet", parquet(data))])[0], 10)
    with pytest.raises(InputError, match=r"rows\.parquet: row 1: column 'id' is int64"):
        rows_of(file, cuts, pa.schema([("id", pa.int32())]))


@pytest.mark.parametrize("bad", [0, 2500])
@pytest.mark.parametrize("names", [("code",), ("n", "code", "text")])
def test_a_dictionary_that_pyarrow_refuses_is_handed_out_as_strings(
    tmp_path: Path, bad: int, names: tuple[str, ...]
) -> None:
    """Its batches before the one with the invalid string were handed out already."""
    values = [b"%d" % (n % 300) for n in range(3000)]
    values[bad] = b"\xff"
    encoded = pa.array(values).dictionary_encode()
    codes = pa.DictionaryArray.from_arrays(
        encoded.indices.cast(pa.int16()), encoded.dictionary.view(pa.string())
    )
    columns = {"n": range(3000), "code": codes, "text": ["t"] * 3000}
    # Plain pages: the invalid string is met in its batch, and not with the first one.
    data = parquet(pa.table(columns), row_group_size=2600, use_dictionary=False)
    uri = put(str(tmp_path), "rows.parquet", data)
    kept = pa.schema([(name, pa.table(columns).schema.field(name).type) for name in names])
    file, cuts = planned(discover([uri])[0], 2000)
    assert file.rows == 3000
    found = pa.concat_tables(rows_of(file, cuts, kept))
    assert found["code"].cast(pa.string()).cast(pa.binary()).to_pylist() == values
    assert "n" not in names or found["n"].to_pylist() == [*range(3000)]


def test_invalid_utf8_in_a_string_column_is_handed_out_as_it_is(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", None], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    uri = put(str(tmp_path), "rows.parquet", parquet(pa.table({"text": broken})))
    file, cuts = planned(discover([uri])[0], 10)
    column = rows_of(file, cuts, pa.schema([("text", pa.large_string())]))[0]["text"]
    assert column.cast(pa.large_binary()).to_pylist() == [b"fine", b"\xff\xfe", None]


def test_a_giant_row_group_is_streamed_once_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    texts = [f"{rng.bytes(200).hex()}{i}" for i in range(100_000)]
    path = tmp_path / "giant.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100_000, use_dictionary=False)
    file, cuts = planned(discover([str(path)])[0], 10_000)
    assert [cut.rows for cut in cuts] == [10_000] * 10
    del texts
    schema = pa.schema([("text", pa.large_string())])
    tracemalloc.start()
    base, peak, rows = pa.total_allocated_bytes(), 0, 0
    for _, batch in read(file, cuts, schema, 1024):
        rows += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - base)
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 100_000
    assert path.stat().st_size > 20 << 20
    assert peak + python_peak < 12 << 20


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from pipeline.store.directory import OpenedFile

    sizes: list[int] = []
    original = OpenedFile.read

    def counted(self: OpenedFile, size: int = -1) -> bytes:
        data = original(self, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(OpenedFile, "read", counted)
    return sizes


def test_only_the_row_groups_and_columns_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    blob = [rng.bytes(1000) for _ in range(4000)]
    data = pa.table({"text": ["t"] * 4000, "blob": blob})
    uri = put(str(tmp_path), "rows.parquet", parquet(data, row_group_size=1000))
    file, cuts = planned(discover([uri])[0], 1000)
    sizes = count_reads(monkeypatch)
    rows_of(file, cuts[2:3], pa.schema([("text", pa.large_string())]))
    assert sum(sizes) < 100_000


def test_counting_a_remote_arrow_file_reads_one_narrow_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = pa.table({"text": ["t" * 1000] * 4000, "n": range(4000)})
    uri = put("memory://counting", "rows.arrow", arrow_file(data))
    sizes = count_reads(monkeypatch)
    assert inspect(discover([uri])[0], None, 1000).rows == 4000
    assert sum(sizes) < 200_000


def test_text_is_not_read_before_its_first_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pa.table({"id": ["i"] * 8000, "text": ["t" * 1000] * 8000})
    file, cuts = planned(discover([put(str(tmp_path), "rows.jsonl", jsonl(data))])[0], 1000)
    sizes = count_reads(monkeypatch)
    assert rows_of(file, cuts[-1:])[0].num_rows == 1000
    assert sum(sizes) < 2 << 20


def test_a_row_group_that_fails_leaves_earlier_shards_intact(tmp_path: Path) -> None:
    data = table(3000)
    blob = bytearray(
        parquet(data, row_group_size=1000, compression="none", write_page_checksum=True)
    )
    second = pq.ParquetFile(io.BytesIO(blob)).metadata.row_group(1).column(1)
    start = second.dictionary_page_offset or second.data_page_offset
    blob[start + 200 : start + 220] = b"\xff" * 20
    file, cuts = planned(discover([put(str(tmp_path), "rows.parquet", bytes(blob))])[0], 1000)
    reader = read(file, cuts, SCHEMA, 100)
    first = [next(reader) for _ in range(10)]
    assert {index for index, _ in first} == {0}
    assert sum(batch.num_rows for _, batch in first) == 1000
    with pytest.raises(InputError, match=r"rows\.parquet: row group 1 \(rows 1000-1999\)"):
        list(reader)
    assert rows_of(file, cuts[2:])[0].num_rows == 1000


@pytest.mark.parametrize("name", WRITERS)
def test_an_input_that_changed_since_it_was_planned_is_refused(store_uri: str, name: str) -> None:
    uri = put(store_uri, name, WRITERS[name](table(100)))
    file, cuts = planned(discover([uri])[0], 50)
    put(store_uri, name, WRITERS[name](table(101)))
    with pytest.raises(InputChanged, match="changed since it was planned"):
        next(read(file, cuts, SCHEMA, 10))


def test_an_input_that_is_gone_is_refused(store_uri: str) -> None:
    uri = put(store_uri, "rows.csv", csv_text(table(10)))
    file, cuts = planned(discover([uri])[0], 50)
    Directory(store_uri).delete("rows.csv")
    with pytest.raises(InputChanged, match="no longer exists"):
        rows_of(file, cuts)


@pytest.mark.parametrize("rows_per_shard", [1000, 2000])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.csv", "rows.arrow"])
def test_an_input_that_changes_while_it_is_read_is_noticed_before_its_shard_is_complete(
    store_uri: str, name: str, rows_per_shard: int
) -> None:
    uri = put(store_uri, name, WRITERS[name](table(2000)))
    file, cuts = planned(discover([uri])[0], rows_per_shard)
    reader = read(file, cuts, SCHEMA, 10)
    seen = {next(reader)[0]}
    if "://" in uri:
        put(store_uri, name, WRITERS[name](table(2001)))
    else:
        os.utime(uri, ns=(1, 1))
    with pytest.raises(InputChanged):
        seen.update(index for index, _ in reader)  # keeps what came before the error
    assert seen == {0}


def test_a_store_that_fails_while_reading_is_not_blamed_on_the_content(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(f"s3://{s3.make_bucket()}", "rows.parquet", parquet(table(1000)))
    file, cuts = planned(discover([uri])[0], 1000)
    refusal = b"<Error><Code>AccessDenied</Code></Error>"
    s3.fault = lambda request, _: (
        ("403 Forbidden", refusal) if request["REQUEST_METHOD"] == "GET" else None
    )
    with pytest.raises(AccessDenied):
        rows_of(file, cuts)


class TestBadContent:
    @pytest.mark.parametrize("name", WRITERS)
    def test_an_empty_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        if "jsonl" in name or "csv" in name:
            assert inspect(discover([str(tmp_path / name)])[0], None, 10).rows == 0
            return
        with pytest.raises(InputError, match=rf"{name} is an empty file"):
            inspect(discover([str(tmp_path / name)])[0], None, 10)

    @pytest.mark.parametrize("name", sorted(set(WRITERS) - {"rows.jsonl", "rows.csv"}))
    def test_a_truncated_file(self, tmp_path: Path, name: str) -> None:
        blob = WRITERS[name](table(2000))
        uri = put(str(tmp_path), name, blob[: len(blob) * 2 // 3])
        with pytest.raises(InputError, match=rf"{name}: ") as caught:
            inspect(discover([uri])[0], None, 10)
        assert "leave it out" in caught.value.hint

    @pytest.mark.parametrize("name", sorted(WRITERS))
    def test_a_file_of_garbage(self, tmp_path: Path, name: str) -> None:
        uri = put(str(tmp_path), name, b"\x00\xffgarbage, not data" * 100)
        with pytest.raises(InputError, match=rf"{name}: "):
            inspect(discover([uri])[0], None, 10)

    def test_a_corrupt_parquet_footer(self, tmp_path: Path) -> None:
        blob = bytearray(parquet(table(100)))
        blob[-200:-8] = b"\xff" * 192
        uri = put(str(tmp_path), "rows.parquet", bytes(blob))
        with pytest.raises(InputError, match="not a readable Parquet file"):
            inspect(discover([uri])[0], None, 10)

    @pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl.gz"])
    def test_text_that_is_not_utf8_names_the_row(self, tmp_path: Path, name: str) -> None:
        text = b'id,text\n1,"a\nb"\n' + b"2,\xe9t\xe9\n" * 101
        if "jsonl" in name:
            text = gzip.compress(b'{"text": "a"}\n\n' + b'{"text": "\xe9t\xe9"}\n' * 101)
        uri = put(str(tmp_path), name, text)
        with pytest.raises(InputError, match="row 1 is not UTF-8"):
            inspect(discover([uri])[0], None, 10)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b'{"text": "a"', "row 2 is not JSON"),
            (b'["a"]', "row 2 is a JSON list, not an object"),
            (b'{"text": "a", "text": "b"}', "row 2 has the key 'text' twice"),
            (b'{"text": 5}', "row 2: column 'text' is int64, but string in row 0"),
            (b'{"text": {"a": [{"b": 1, "b": 2}]}}', "row 2: column 'text' has the key 'b' twice"),
            (b'{"text": ' + b"9" * 30 + b"}", "row 2: column 'text': "),
            (b'{"text": "a"} {"text": "b"}', "row 2 is not JSON"),
        ],
    )
    def test_a_bad_line_of_json_is_named(self, tmp_path: Path, line: bytes, message: str) -> None:
        uri = put(str(tmp_path), "rows.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n' + line + b"\n")
        with pytest.raises(InputError, match=message):
            inspect(discover([uri])[0], ["text"], 10)

    def test_types_that_change_far_into_the_file_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_format, "_BLOCK_BYTES", 120)
        text = b'{"id": "a"}\n' * 100 + b'{"id": 5}\n' * 10
        listed = discover([put(str(tmp_path), "rows.jsonl", text)])[0]
        with pytest.raises(InputError, match="row 100: column 'id' is int64, but string in row 0"):
            inspect(listed, ["id"], 10)
        assert inspect(listed, ["text"], 10).rows == 110  # the ids are not needed

    def test_a_csv_row_with_too_few_fields(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "rows.csv", b"id,text\n1,a\n2\n3,c\n")
        with pytest.raises(InputError, match="near row 1: 1 fields, but 2 in the header"):
            inspect(discover([uri])[0], None, 10)

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (rb'1,"he said \"hi\" there"', "row 1 (byte 14): a quote seems to be written as"),
            (rb'1,"a \"quoted\", comma"', "row 1 (byte 14): a quote seems to be written as"),
            (rb'1,"at the end \""' + b'\n2,"plain"', "row 1 (byte 14): a quote seems to be"),
            (b'\n1,"before\na comma\\",b"', "3 fields, but 2 in the header (a quote seems to be"),
            (rb'1,"at the end \""', "never ends: a quote is not closed, or quotes are written"),
        ],
    )
    def test_quotes_that_are_escaped_with_a_backslash(
        self, tmp_path: Path, rows: bytes, said: str
    ) -> None:
        """They were read as garbage without a word."""
        uri = put(str(tmp_path), "rows.csv", b"id,text\n0,'a'\n" + rows + b"\n")
        with pytest.raises(InputError) as caught:
            inspect(discover([uri])[0], None, 10)
        assert said in caught.value.message
        assert "escape" in caught.value.message or "never ends" in said

    def test_a_quote_that_is_never_closed(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "rows.csv", b'id,text\n1,"a\n2,b\n3,c\n')
        with pytest.raises(InputError, match="byte 8 never ends: a quote is not closed"):
            inspect(discover([uri])[0], None, 10)

    def test_a_record_beyond_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_format, "_RECORD_MAX_BYTES", 1 << 20)
        uri = put(str(tmp_path), "rows.csv", b'id,text\n1,"' + b"a\n" * (2 << 20))
        with pytest.raises(InputError, match="longer than 1 MiB"):
            inspect(discover([uri])[0], None, 10)

    def test_an_unreadable_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = discover([put(str(tmp_path), "rows.csv", b"id,text\n1,a\n")])[0]

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pipeline.store.directory._open", refuse)
        with pytest.raises(AccessDenied, match=r"rows\.csv: access denied"):
            inspect(listed, None, 10)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_json_that_some_parsers_refuse_costs_no_other_row(tmp_path: Path, name: str) -> None:
    """Each of them stopped the job, or only the shard and every rerun of it."""
    emoji = "\\ud83d\\ude00"
    lines = [
        r'{"id": 0.5, "text": "half \ud83d of one", "other": 1}',
        r'{"id": 1e400, "text": "low \uDC00", "other": {"a": 1, "a": 2}}',
        "\ufeff" + r'{"id": -1e400, "text": "b \\ud83d", "other": 1e999}',
        "\ufeff",
        r'{"id": 3, "text": "a", "other": "\ud83d"}',
        f'{{"id": 4, "text": "{emoji}{emoji[:6]}x", "other": {"9" * 400}}}',
    ]
    text = "\n".join(lines).encode()
    uri = put(str(tmp_path), name, gzip.compress(text) if name.endswith("gz") else text)
    planned = plan_of([uri], columns=("id",))
    ((file, cuts),) = planned.files
    rows = [row for _, batch in read(file, cuts, planned.schema, 2) for row in batch.to_pylist()]
    assert rows == [
        {"id": 0.5, "text": "half \ufffd of one"},
        {"id": math.inf, "text": "low \ufffd"},
        {"id": -math.inf, "text": r"b \ud83d"},
        {"id": 3.0, "text": "a"},
        {"id": 4.0, "text": "\U0001f600\ufffdx"},
    ]


def test_integers_of_json_that_no_float_holds_are_never_rounded(tmp_path: Path) -> None:
    """pyarrow's parser rounds them without a word where another file has floats."""
    put(str(tmp_path), "a.jsonl", b'{"text": "a", "n": {"x": [1, 9007199254740993]}}\n')
    put(str(tmp_path), "b.jsonl", b'{"text": "b", "n": {"x": [1.5, 1e300, 9007199254740992]}}\n')
    planned = plan_of([tmp_path], columns=("n",))
    (first, first_cuts), (second, cuts) = planned.files
    with pytest.raises(InputError, match=r"a\.jsonl: row 0: column 'n' .*9007199254740993"):
        list(read(first, first_cuts, planned.schema, 10))
    ((_, batch),) = read(second, cuts, planned.schema, 10)
    assert batch.to_pylist()[0]["n"] == {"x": [1.5, 1e300, 2.0**53]}


class TestCsv:
    def test_backslashes_that_escape_nothing_are_read_as_duckdb_reads_them(
        self, tmp_path: Path
    ) -> None:
        path = r""""C:\dir\""""
        json = r'''"{""a"": ""he said \""hi\""""}"'''
        text = f'id,text\n1,{path}\n2,{json}\n3,no \\"quotes\\" here\n'.encode()
        expected = duckdb.sql(f"FROM '{put(str(tmp_path), 'rows.csv', text)}'").fetchall()
        assert [row["text"] for row in self.rows(tmp_path, text)] == [row[1] for row in expected]

    def rows(self, tmp_path: Path, text: bytes, rows_per_shard: int = 1) -> list[dict[str, Any]]:
        file, cuts = planned(discover([put(str(tmp_path), "rows.csv", text)])[0], rows_per_shard)
        rows = pa.concat_tables(rows_of(file, cuts)).to_pylist()
        assert len(rows) == file.rows
        return rows

    def test_quoted_line_breaks_commas_and_quotes(self, tmp_path: Path) -> None:
        text = b'id,text\n1,"a\nb, ""c""\r\n"\n"2",\n\n3,"\n"\n'
        assert self.rows(tmp_path, text) == [
            {"id": "1", "text": 'a\nb, "c"\r\n'},
            {"id": "2", "text": ""},
            {"id": "3", "text": "\n"},
        ]

    @pytest.mark.parametrize("line_break", [b"\n", b"\r\n", b"\r"])
    def test_every_kind_of_line_break(self, tmp_path: Path, line_break: bytes) -> None:
        text = line_break.join([b"id,text", b"1,a", b"", b'2,"b"', b"3,c"])
        expected = [{"id": str(i + 1), "text": "abc"[i]} for i in range(3)]
        assert self.rows(tmp_path, text) == expected

    def test_a_byte_order_mark_is_no_part_of_the_header(self, tmp_path: Path) -> None:
        assert self.rows(tmp_path, b'\xef\xbb\xbf"id",text\n1,a\n') == [{"id": "1", "text": "a"}]

    def test_values_stay_the_strings_they_are(self, tmp_path: Path) -> None:
        text = b"id,text\n007,NA\n1.50,null\n2020-01-01,true\n"
        assert self.rows(tmp_path, text) == [
            {"id": "007", "text": "NA"},
            {"id": "1.50", "text": "null"},
            {"id": "2020-01-01", "text": "true"},
        ]

    def test_stray_quotes_inside_a_field_are_text(self, tmp_path: Path) -> None:
        text = b'id,text\n1,5" disk\n2,a "b" c\n3,"d"e\n'
        assert [row["text"] for row in self.rows(tmp_path, text)] == ['5" disk', 'a "b" c', "de"]

    def test_a_header_alone_is_a_file_without_rows(self, tmp_path: Path) -> None:
        summary = inspect(discover([put(str(tmp_path), "rows.csv", b"id,text")])[0], None, 10)
        assert (summary.rows, summary.columns, summary.offsets) == (0, ("id", "text"), ())

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
                st.text(st.sampled_from('a",\n\r é')),
            ),
            min_size=1,
            max_size=20,
        ),
        block=st.integers(1, 40),
        step=st.integers(1, 7),
    )
    def test_what_the_csv_module_writes_is_read_back(
        self, rows: list[tuple[str, str]], block: int, step: int
    ) -> None:
        data = pa.table({"id": [a for a, _ in rows], "text": [b for _, b in rows]})
        uri = put("memory://csv", "rows.csv", csv_text(data))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_format, "_BLOCK_BYTES", block)
            file, cuts = planned(discover([uri])[0], step)
            assert pa.concat_tables(rows_of(file, cuts)).equals(data.cast(SCHEMA))


class TestJsonLines:
    def summary(self, tmp_path: Path, text: bytes) -> Any:
        return inspect(discover([put(str(tmp_path), "rows.jsonl", text)])[0], None, 2)

    def test_missing_keys_nulls_and_blank_lines(self, tmp_path: Path) -> None:
        text = b'\xef\xbb\xbf\n{"id": "1", "text": "a"}\r\n   \r\n\n{"text": null}\n{"id": "3"}'
        uri = put(str(tmp_path), "rows.jsonl", text)
        file, cuts = planned(discover([uri])[0], 2)
        assert pa.concat_tables(rows_of(file, cuts)).to_pylist() == [
            {"id": "1", "text": "a"},
            {"id": None, "text": None},
            {"id": "3", "text": None},
        ]

    def test_types_come_from_the_whole_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_format, "_BLOCK_BYTES", 20)
        lines = [
            {"text": "2020-01-01", "n": 1, "l": []},
            {"text": "b", "n": 2.5, "l": ["x"], "s": {"a": 1}},
            {"text": "c", "n": None, "s": {"b": "y"}},
        ]
        summary = self.summary(tmp_path, "\n".join(map(json.dumps, lines)).encode())
        assert dict(zip(summary.schema.names, summary.schema.types, strict=True)) == {
            "text": pa.string(),
            "n": pa.float64(),
            "l": pa.list_(pa.string()),
            "s": pa.struct([("a", pa.int64()), ("b", pa.string())]),
        }

    def test_nested_kept_columns_are_read_back(self, tmp_path: Path) -> None:
        lines = [{"text": "a", "s": {"a": 1, "t": ["x"]}}, {"text": "b"}]
        uri = put(str(tmp_path), "rows.jsonl", "\n".join(map(json.dumps, lines)).encode())
        listed = discover([uri])[0]
        schema = inspect(listed, ["s"], 10).schema
        file, cuts = planned(listed, 10)
        assert rows_of(file, cuts, schema)[0]["s"].to_pylist() == [{"a": 1, "t": ["x"]}, None]

    def test_only_blank_lines_are_no_rows(self, tmp_path: Path) -> None:
        assert self.summary(tmp_path, b"\n \n").rows == 0

    def test_a_line_longer_than_a_block(self, tmp_path: Path) -> None:
        data = pa.table({"id": ["1", "2"], "text": ["a" * (3 << 20), "b"]})
        file, cuts = planned(discover([put(str(tmp_path), "rows.jsonl", jsonl(data))])[0], 1)
        assert pa.concat_tables(rows_of(file, cuts)).equals(data.cast(SCHEMA))

    @settings(max_examples=40, deadline=None)
    @given(
        lines=st.lists(st.one_of(st.none(), st.text(max_size=20)), min_size=1, max_size=30),
        block=st.integers(1, 60),
        step=st.integers(1, 9),
        compression=st.sampled_from(["", ".gz", ".zst"]),
    )
    def test_any_text_is_read_back_whatever_the_blocks(
        self, lines: list[str | None], block: int, step: int, compression: str
    ) -> None:
        rows = [line for line in lines if line is not None]
        data = pa.table({"id": [str(i) for i in range(len(rows))], "text": rows or []})
        encoded = [json.dumps(row).encode() for row in data.to_pylist()]
        blanks = iter(encoded)
        text = b"\n".join(b" " if line is None else next(blanks) for line in lines)
        uri = put("memory://jsonl", f"rows.jsonl{compression}", COMPRESS[compression](text))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_format, "_BLOCK_BYTES", block)
            file, cuts = planned(discover([uri])[0], step)
            rows = pa.concat_tables([SCHEMA.empty_table(), *rows_of(file, cuts)])
        assert rows.to_pylist() == data.to_pylist()


def test_two_gzip_members_in_one_file_are_both_read(tmp_path: Path) -> None:
    data = table(1000)
    blob = gzip.compress(jsonl(data.slice(0, 500))) + gzip.compress(jsonl(data.slice(500)))
    file, cuts = planned(discover([put(str(tmp_path), "rows.jsonl.gz", blob)])[0], 300)
    assert pa.concat_tables(rows_of(file, cuts)).equals(data.cast(SCHEMA))


def test_feather_version_1_is_refused_with_a_way_out(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "old.feather", b"FEA1" + bytes(100))
    with pytest.raises(InputError, match="Feather version 1 is not supported"):
        inspect(discover([uri])[0], None, 10)


def test_hive_keys_become_string_columns(tmp_path: Path) -> None:
    name = "lang=de%20AT/day=__HIVE_DEFAULT_PARTITION__/rows.parquet"
    put(str(tmp_path), name, parquet(table(3)))
    file, cuts = planned(discover([str(tmp_path)])[0], 10)
    schema = pa.schema([("id", pa.string()), ("lang", pa.string()), ("day", pa.string())])
    assert rows_of(file, cuts, schema)[0].to_pylist() == [
        {"id": f"id-{i}", "lang": "de AT", "day": None} for i in range(3)
    ]


def test_reading_through_a_store_error_keeps_it_transient(s3: Any) -> None:
    uri = put(f"s3://{s3.make_bucket()}", "rows.csv", csv_text(table(100)))
    file, cuts = planned(discover([uri])[0], 1000)
    s3.fault = lambda request, _: (
        ("500 Internal", b"<Error><Code>InternalError</Code></Error>")
        if request["REQUEST_METHOD"] == "GET"
        else None
    )
    with pytest.raises(StorageError) as caught:
        rows_of(file, cuts)
    assert caught.value.transient


def test_the_version_of_a_listed_file_is_the_version_it_is_opened_with(store_uri: str) -> None:
    put(store_uri, "a/rows.csv", b"id,text\n1,a\n")
    assert discover([store_uri])[0].version == file_info(f"{store_uri}/a/rows.csv").version
    assert discover([f"{store_uri}/*/*.csv"])[0].version == discover([store_uri])[0].version
