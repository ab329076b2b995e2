"""Which format a file is taken for: by its name, its first bytes, or as the user says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from input_plans import plan_of

from pipeline.errors import InputError
from pipeline.input.discovery import discover
from pipeline.input.reading import inspect, read
from pipeline.input.search import Search
from pipeline.store.directory import Directory

ROWS = [{"id": f"{row}", "text": f"text {row} " * 50} for row in range(300)]
TABLE = pa.Table.from_pylist(ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in ROWS)
TSV = CSV.replace(b",", b"\t")
COMPRESS = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def arrow_file() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(TABLE, sink)
    return sink.getvalue()


def arrow_stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def put(root: str, name: str, data: bytes) -> str:
    directory = Directory(root)
    directory.put(name, data)
    return directory.uri_of(name)


def rows_of(*inputs: str, said: str = "") -> list[dict[str, Any]]:
    """The rows as a job would read them: every cut by itself."""
    planned = plan_of(inputs, columns=["id"], rows_per_shard=70, file_format=said)
    batches = [
        batch
        for file, cuts in planned.files
        for cut in cuts
        for _, batch in read(file, [cut], planned.schema, 50)
    ]
    return pa.Table.from_batches(batches, planned.schema).to_pylist()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", JSONL),
        ("a.ndjson", JSONL),
        ("a.tsv", TSV),
        ("a.TSV", TSV),
        *((f"a.{kind}.{end}", f(data)) for kind, data in (("json", JSONL), ("jsonl", JSONL),
          ("csv", CSV), ("tsv", TSV)) for end, f in COMPRESS.items()),
        # The bytes decide on the compression.
        ("named-plain.csv", gzip.compress(CSV)),
        ("named-gzip.csv.gz", CSV),
        ("another.jsonl.gz", lzma.compress(JSONL)),
        # Several streams in one file.
        *((f"multi.jsonl.{end}", f(JSONL[:5000]) + f(JSONL[5000:])) for end, f in COMPRESS.items()),
        ("padded.jsonl.xz", lzma.compress(JSONL[:5000]) + bytes(8) + lzma.compress(JSONL[5000:])),
        # No suffix.
        ("part-00000", parquet()),
        ("000000_0", arrow_file()),
        ("stream", arrow_stream()),
        ("events.2026-01-31", JSONL),
        ("part-00001", gzip.compress(JSONL)),
        ("part-m-00002.gz", gzip.compress(JSONL)),
        ("part-00003.bz2", bz2.compress(JSONL)),
        ("with-a-mark", b"\xef\xbb\xbf\n" + JSONL),
    ],
)  # fmt: skip
def test_a_file_is_read_whatever_it_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    uri = put(str(tmp_path), name, data)
    assert rows_of(uri) == ROWS
    assert rows_of(str(tmp_path)) == ROWS
    assert rows_of(f"{tmp_path}/*") == ROWS


def test_files_without_a_suffix_are_read_from_every_store(store_uri: str) -> None:
    put(store_uri, "part-0", parquet())
    assert rows_of(store_uri) == ROWS
    put(store_uri, "part-1.bz2", bz2.compress(JSONL))
    assert rows_of(f"{store_uri}/part-1.bz2") == rows_of(f"{store_uri}/*")[300:] == ROWS


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", CSV, "csv"),
        ("a.dat", TSV, "tsv"),
        ("a.csv", TSV, "tsv"),
        ("a.txt.gz", gzip.compress(CSV), "csv"),
        ("part-0.c000", parquet(), "parquet"),
        ("part-0", arrow_file(), "arrow"),
        ("a.log", JSONL, "jsonl"),
    ],
)
def test_the_user_says_the_format_of_all_files(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    uri = put(str(tmp_path), name, data)
    assert rows_of(uri, said=said) == ROWS
    put(str(tmp_path), "_SUCCESS", b"")
    assert rows_of(str(tmp_path), said=said) == ROWS


@pytest.mark.parametrize("end", COMPRESS)
@pytest.mark.parametrize("damage", ["cut", "cut in the second stream", "garbage behind it"])
def test_damaged_compressed_text_is_named(tmp_path: Path, end: str, damage: str) -> None:
    data = COMPRESS[end](JSONL)
    data = {"cut": data[:-5], "garbage behind it": data + b"garbage!"}.get(damage, data + data[:-5])
    uri = put(str(tmp_path), f"a.jsonl.{end}", data)
    with pytest.raises(InputError, match=rf"a\.jsonl\.{end}: after \d+ bytes of text: ") as caught:
        inspect(discover([uri])[0], None, 10)
    assert "repair the file" in caught.value.hint


def test_an_xz_file_cannot_ask_for_any_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(JSONL, filters=filters))
    data[data.index(b"\x21\x01", 12) + 2] = 40  # 4 GiB less a byte
    head = data.index(b"\x21\x01", 12) - 2
    size = (data[head] + 1) * 4
    data[head + size - 4 : head + size] = zlib.crc32(bytes(data[head : head + size - 4])).to_bytes(
        4, "little"
    )
    uri = put(str(tmp_path), "a.jsonl.xz", bytes(data))
    with pytest.raises(InputError, match="Memory usage limit exceeded"):
        inspect(discover([uri])[0], None, 10)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.json", json.dumps(ROWS).encode(), "jq -c '.[]'"),
        ("a.json", json.dumps(ROWS, indent=2).encode(), "jq -c '.[]'"),
        ("a.json", json.dumps({"data": ROWS}, indent=2).encode(), "jq -c . in.json"),
        ("a.jsonl", b"\n [\n" + JSONL, "jq -c '.[]'"),
        ("a.jsonl", JSONL.decode().encode("utf-16"), "it is UTF-16, not UTF-8"),
        ("a.csv", CSV.decode().encode("utf-16-le"), "iconv -f utf-16le -t utf-8"),
        ("a.csv", CSV.decode().encode("utf-16-be"), "iconv -f utf-16be -t utf-8"),
        ("a.tsv", TSV.decode().encode("utf-32"), "it is UTF-32, not UTF-8"),
        ("a.csv.gz", gzip.compress(CSV.decode().encode("utf-16")), "it is UTF-16, not UTF-8"),
        ("a.csv", b"id,text\n1,\xe9\n", "iconv -f latin1"),
        ("a.csv", b"PK\x03\x04" + bytes(100), "it is a ZIP archive or a spreadsheet, not CSV"),
        ("a.jsonl", parquet(), "it is a Parquet file: name it so, or give --format parquet"),
        ("a.parquet", arrow_file(), "it is an Arrow file: name it so, or give --format arrow"),
        ("a.parquet", gzip.compress(parquet()), "compressed with gzip as a whole: unpack it"),
        ("part-0", gzip.compress(parquet()), "unpack it, for example with gunzip"),
        ("a.csv.gz", gzip.compress(gzip.compress(CSV)), "it is compressed twice, gzip in gzip"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html>", "it is an HTML page, not CSV"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("part-0", b"FEA1" + bytes(40), "Feather version 1 is not supported"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_refused_by_what_it_is(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    uri = put(str(tmp_path), name, data)
    with pytest.raises(InputError) as caught:
        inspect(discover([uri])[0], None, 10)
    assert said in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["README", "a.txt", "a.gz"])
def test_text_whose_format_nothing_tells_is_refused(tmp_path: Path, name: str) -> None:
    uri = put(str(tmp_path), name, CSV)
    with pytest.raises(InputError, match="cannot tell the format") as caught:
        discover([uri])
    assert "--format" in caught.value.hint


def test_one_file_is_not_read_as_two_formats(tmp_path: Path) -> None:
    """Their parts would have the same names."""
    uri = put(str(tmp_path), "a.csv", TSV)
    first = plan_of([uri], file_format="tsv")
    earlier = {(file.uri, file.version): (file, cuts) for file, cuts in first.files}
    with pytest.raises(InputError, match=r"a\.csv was read as tsv by an earlier run") as caught:
        plan_of([uri], cuts=earlier, schema=first.schema)
    assert "--format tsv" in caught.value.hint


class TestIgnored:
    def found(self, uri: str) -> tuple[list[str], dict[str, str]]:
        search = Search()
        paths = [file.path for file in discover([uri], search)]
        return paths, {
            name.removeprefix(uri).strip("/"): reason
            for name, reason in search.ignored.reasons.items()
        }

    def test_every_file_beside_the_inputs_is_named(self, store_uri: str) -> None:
        put(store_uri, "a.parquet", parquet())
        for name in ("_SUCCESS", ".a.parquet.crc", "_logs/x.csv", "notes.txt", "README"):
            put(store_uri, name, b"These are notes.\n")
        put(store_uri, "dataset_info.json", b'{"rows": 300}\n')
        put(store_uri, "state.json", json.dumps({"rows": 300}, indent=1).encode())
        put(store_uri, "out.embed/part-1.arrow", arrow_file())
        put(store_uri, "out.embed/_bei/spec.json", b"{}")
        put(store_uri, "empty.jsonl", b"")
        put(store_uri, "marker", b"")
        paths, ignored = self.found(store_uri)
        assert paths == ["a.parquet", "empty.jsonl"]
        assert ignored == {
            "_SUCCESS": "hidden name",
            ".a.parquet.crc": "hidden name",
            "_logs/x.csv": "hidden name",
            "notes.txt": "unknown suffix",
            "README": "its content is not rows",
            "dataset_info.json": "its content is not rows",
            "state.json": "its content is not rows",
            "out.embed": "an output of bei-jobs",
            "empty.jsonl": "empty",
            "marker": "empty",
        }

    def test_json_beside_json_lines_is_an_input(self, store_uri: str) -> None:
        """A day with one row, and a file that has to be repaired."""
        put(store_uri, "monday.json", JSONL)
        put(store_uri, "sunday.json", b'{"id": "1", "text": "a"}\n')
        put(store_uri, "broken.json", json.dumps(ROWS).encode())
        assert self.found(store_uri) == (["broken.json", "monday.json", "sunday.json"], {})

    def test_pipes_and_sockets(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.csv", CSV)
        os.mkfifo(tmp_path / "pipe.csv")
        for argument in (tmp_path, tmp_path / "*"):
            search = Search()
            assert [file.path for file in discover([str(argument)], search)] == ["a.csv"]
            assert search.ignored.to_json() == {
                "total": 1,
                "reasons": {"not a regular file": 1},
                "first": [{"uri": f"{tmp_path}/pipe.csv", "reason": "not a regular file"}],
            }
        with pytest.raises(InputError, match=r"pipe\.csv is not a regular file"):
            discover([str(tmp_path / "pipe.csv")])


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.tsv", "empty.json"])
def test_an_empty_text_file_has_no_rows(store_uri: str, name: str) -> None:
    put(store_uri, "a.csv", CSV)
    put(store_uri, name, b"")
    assert rows_of(store_uri) == ROWS
