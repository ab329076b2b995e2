"""A part says everything of itself, and any changed byte is seen."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.output.part_file import checksum_holds, encode_part, parse_info

VALUES = {"task": "embed", "rows": 3, "versions": {"torch": "2"}, "prompt": "passage: é"}


def table() -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12, pa.float32()), 4)
    kind = pa.array(["x", "y", "x"]).dictionary_encode()
    return pa.table({"id": ["a", "b", "0" * 64], "kind": kind, "embedding": vectors})


def test_what_was_put_in_comes_out() -> None:
    data = bytes(encode_part(table(), VALUES))

    assert pa.ipc.open_file(data).read_all().equals(table())
    info = parse_info("part", data)
    assert info.values["task"] == "embed"
    assert info.count("rows") == 3
    assert info.values["versions"] == '{"torch": "2"}'
    assert info.values["prompt"] == "passage: é"


def test_dictionaries_that_differ_between_chunks_are_unified() -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()]
    mixed = pa.table({"kind": pa.chunked_array(chunks)})

    back = pa.ipc.open_file(bytes(encode_part(mixed, VALUES))).read_all()

    assert back["kind"].cast(pa.string()).to_pylist() == ["a", "b", "c", "a"]


def test_an_untouched_part_has_the_checksum_it_claims() -> None:
    data = bytes(encode_part(table(), VALUES))

    assert checksum_holds(data, parse_info("part", data))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_seen(where: int, change: int) -> None:
    data = bytearray(encode_part(table(), VALUES))
    info = parse_info("part", bytes(data))
    data[where % len(data)] ^= change

    assert not checksum_holds(bytes(data), info)


def test_the_checksum_is_taken_without_a_copy_of_the_part() -> None:
    data = bytes(encode_part(pa.table({"text": ["x" * 1000] * 20_000}), VALUES))
    info = parse_info("part", data)
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


def test_two_attempts_differ_in_their_bytes() -> None:
    one, other = (bytes(encode_part(table(), VALUES | {"attempt": a})) for a in ("1", "2"))

    assert one != other


def test_a_file_that_is_no_arrow_file_is_named() -> None:
    with pytest.raises(StorageError, match="part-x"):
        parse_info("part-x", b"PAR1 not arrow")
