"""A part says everything of itself in either format, and any changed byte is seen."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.output.part_file import (
    checksum_holds,
    encode_part,
    parse_info,
    read_info,
    read_rows,
)
from pipeline.spec import OutputFormat
from pipeline.store.directory import Directory

BOTH = pytest.mark.parametrize("kind", ["arrow", "parquet"])
VALUES = {"task": "embed", "rows": 3, "versions": {"torch": "2"}, "prompt": "passage: é"}


def table() -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12, pa.float32()), 4)
    kind = pa.array(["x", "y", "x"]).dictionary_encode()
    return pa.table({"id": ["a", "b", "0" * 64], "kind": kind, "embedding": vectors})


@BOTH
def test_what_was_put_in_comes_out(kind: OutputFormat) -> None:
    data = bytes(encode_part(table(), VALUES, kind))

    rows = read_rows(f"part.{kind}", data)
    assert rows.equals(table())
    assert rows.schema == table().schema
    info = parse_info(f"part.{kind}", data)
    assert info.schema == table().schema
    assert info.values["task"] == "embed"
    assert info.count("rows") == 3
    assert info.values["versions"] == '{"torch": "2"}'
    assert info.values["prompt"] == "passage: é"


def test_dictionaries_that_differ_between_chunks_are_unified() -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()]
    mixed = pa.table({"kind": pa.chunked_array(chunks)})

    back = pa.ipc.open_file(bytes(encode_part(mixed, VALUES))).read_all()

    assert back["kind"].cast(pa.string()).to_pylist() == ["a", "b", "c", "a"]


@BOTH
def test_an_untouched_part_has_the_checksum_it_claims(kind: OutputFormat) -> None:
    data = bytes(encode_part(table(), VALUES, kind))
    info = parse_info(f"part.{kind}", data)

    assert checksum_holds(data, info)
    # As the documentation of the checksum says, without any reader of the format.
    digits = info.values["checksum"].encode()
    assert data.count(digits) == {"arrow": 2, "parquet": 1}[kind]
    assert hashlib.sha256(data.replace(digits, b"0" * 64)).hexdigest().encode() == digits


@BOTH
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_seen(kind: OutputFormat, where: int, change: int) -> None:
    data = bytearray(encode_part(table(), VALUES, kind))
    info = parse_info(f"part.{kind}", bytes(data))
    data[where % len(data)] ^= change

    assert not checksum_holds(bytes(data), info)


def test_the_checksum_is_taken_without_a_copy_of_the_part() -> None:
    data = bytes(encode_part(pa.table({"text": ["x" * 1000] * 20_000}), VALUES))
    info = parse_info("part.arrow", data)
    tracemalloc.start()
    assert checksum_holds(data, info)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) / 10


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_a_part_holds_the_values_of_its_own_rows(kind: pa.DataType) -> None:
    values = pa.array([f"{number} " * 100 for number in range(5000)]).cast(kind)
    some = pa.table({"text": values}).slice(4000, 100)
    data = encode_part(some, VALUES)
    assert len(data) < 100_000
    assert pa.ipc.open_file(data).read_all()["text"].to_pylist() == some["text"].to_pylist()


@BOTH
def test_two_attempts_differ_in_their_bytes(kind: OutputFormat) -> None:
    one, other = (bytes(encode_part(table(), VALUES | {"attempt": a}, kind)) for a in ("1", "2"))

    assert one != other


@BOTH
@pytest.mark.parametrize("data", [b"", b"PAR1 neither ARROW1", b"PAR1", b"\0" * 100])
def test_a_file_that_is_none_is_named(kind: OutputFormat, data: bytes) -> None:
    with pytest.raises(StorageError, match=f"part-x.{kind} is not a readable"):
        parse_info(f"part-x.{kind}", data)


def test_another_parquet_file_is_no_part() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, store_schema=False)
    with pytest.raises(StorageError, match="no readable ARROW:schema"):
        parse_info("part-x.parquet", sink.getvalue().to_pybytes())


def test_the_metadata_of_a_parquet_part_is_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"vector": pa.array(np.random.default_rng(0).random(500_000))})
    (tmp_path / "part.parquet").write_bytes(encode_part(rows, VALUES, "parquet"))
    reads: list[int] = []
    opened = Directory.open

    class Counted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def read(self, size: int = -1) -> bytes:
            data: bytes = self._file.read(size)
            reads.append(len(data))
            return data

    @contextmanager
    def counted(self: Directory, name: str) -> Iterator[Counted]:
        with opened(self, name) as file:
            yield Counted(file)

    monkeypatch.setattr(Directory, "open", counted)
    assert read_info(Directory(str(tmp_path)), "part.parquet").values["task"] == "embed"
    assert 0 < len(reads) <= 3
    assert sum(reads) <= 70_000 < rows.nbytes


def test_a_null_in_a_dictionary_is_a_null() -> None:
    """pyarrow writes no such dictionary to Parquet, but others make it."""
    kind = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["a", None]))
    rows = pa.table({"kind": pa.chunked_array([kind, kind])})
    back = read_rows("x.parquet", bytes(encode_part(rows, VALUES, "parquet")))
    assert back.schema == rows.schema
    assert back["kind"].to_pylist() == ["a", None, None] * 2
