"""A byte that is not UTF-8 costs its row, in every format; another encoding costs the file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output
from corpora import parts

ROWS = 8
WORDS = ("--keep", "lang", "--rows-per-shard", 3, "--json")
# Number of a row → its id, text, lang, and a column that nobody reads.
ODD = {
    1: (b"1", b"caf\xe9", b"en", b"x"),
    3: (b"3\xff", b"text of 3", b"en", b"x"),
    4: (b"4", b"text of 4", b"\xc3", b"x"),
    6: (b"6", b"text of 6", b"en", b"\xfe"),
}
ERRORS = {
    1: "the text is not valid UTF-8",
    3: "the column 'id' is not valid UTF-8",
    4: "the column 'lang' is not valid UTF-8",
}


def row(number: int) -> tuple[bytes, ...]:
    plain = (b"%d" % number, b"text of %d" % number, b"en", b"x")
    return ODD.get(number, plain)


def strings(values: tuple[bytes, ...]) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


def write(path: Path) -> Path:
    """The rows in the format of the suffix."""
    rows = [row(number) for number in range(ROWS)]
    if path.suffix == ".parquet":
        names = ("id", "text", "lang", "other")
        table = {
            name: strings(one) for name, one in zip(names, zip(*rows, strict=True), strict=True)
        }
        pq.write_table(pa.table(table), path)
    elif path.suffix == ".csv":
        path.write_bytes(b"".join(b'%b,"%b",%b,%b\n' % r for r in [HEADER, *rows]))
    else:
        lines = b"".join(b'{"id":"%b","text":"%b","lang":"%b","other":"%b"}\n\n' % r for r in rows)
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


HEADER = (b"id", b"text", b"lang", b"other")


@pytest.fixture
def run(submit: Bei, bei: Bei, tmp_path: Path) -> Any:
    """Submit a file to tmp_path/out and verify it."""

    def submitted(path: Path, *words: object) -> Outcome:
        done = submit(path, "--output", tmp_path / "out", *words)
        if done.code != 1:
            checked = bei("verify", tmp_path / "out")
            assert checked.code == 0, checked.out
        return done

    return submitted


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.csv", "c.parquet"])
def test_a_bad_byte_is_an_error_of_its_row(run: Any, bei: Bei, tmp_path: Path, name: str) -> None:
    done = run(write(tmp_path / name), *WORDS)
    assert (done.code, done.json["rows"]["failed"]) == (3, 3)
    table = read_output(bei, tmp_path / "out")
    errors = table["error"].to_pylist()
    assert {n: error.partition(":")[0] for n, error in enumerate(errors) if error} == ERRORS
    ids = [str(number) for number in range(ROWS)]
    assert table["id"].to_pylist() == [*ids[:3], "3\ufffd", *ids[4:]]
    assert table["lang"].to_pylist() == ["en"] * 4 + ["\ufffd"] + ["en"] * 3
    assert [n for n, v in enumerate(table["embedding"].to_pylist()) if v is None] == [*ERRORS]
    quarantined = pq.read_table(tmp_path / "out/_bei/quarantine")
    assert quarantined["bei_row"].to_pylist() == [*ERRORS]
    rows = [len(pl.read_ipc(tmp_path / "out" / part)) for part in parts(tmp_path / "out")]
    assert sum(rows) == ROWS


def test_rows_that_pyarrow_does_not_parse_keep_their_bytes_too(
    run: Any, bei: Bei, tmp_path: Path
) -> None:
    """1e400 sends the rows around it another way."""
    lines = [
        b'{"text": "one", "meta": {"tags": ["a"], "n": 1e400}}',
        b'{"text": "two", "meta": {"tags": ["b", "\xff"], "n": 0.5}}',
        b'{"text": "three \xe9", "meta": null}',
        b'{"text": "four", "meta": {"tags": ["\xc3\xa9"], "n": 2}, "\xff": "\xff"}',
    ]
    (tmp_path / "c.jsonl").write_bytes(b"\n".join(lines))
    assert run(tmp_path / "c.jsonl", "--keep", "meta", "--json").json["rows"]["failed"] == 2
    table = read_output(bei, tmp_path / "out")
    assert [bool(error) for error in table["error"].to_pylist()] == [False, True, True, False]
    assert table["meta"].to_pylist() == [
        {"tags": ["a"], "n": float("inf")}, {"tags": ["b", "\ufffd"], "n": 0.5}, None,
        {"tags": ["é"], "n": 2.0},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.parquet"])
def test_a_row_whose_condition_cannot_be_read_is_an_error_too(
    run: Any, bei: Bei, tmp_path: Path, name: str
) -> None:
    where = "lang = 'de' OR id = '2'"
    done = run(write(tmp_path / name), "--where", where, *WORDS)
    assert (done.code, done.json["rows"]["total"]) == (3, 3)
    table = read_output(bei, tmp_path / "out")
    assert table["id"].to_pylist() == ["2", "3\ufffd", "4"]
    assert [bool(error) for error in table["error"].to_pylist()] == [False, True, True]


LATIN = b"".join(
    b'{"text": "r\xe9sum\xe9 %d"}\n' % n if n % 2 else b'{"text": "%d"}\n' % n for n in range(300)
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", LATIN, "150 of 300 rows are not UTF-8; row 1 is not UTF-8 (byte 25)"),
        ("c.csv", b"text\n" + b"\xe9\n" * 2, "2 of 2 rows are not UTF-8; row 0 is not UTF-8"),
        ("c.jsonl", ('{"text": "a"}\n' * 3).encode("utf-16"), "it is UTF-16, not UTF-8"),
        ("c.csv", "text\na\nb\nc\n".encode("utf-16"), "c.csv"),
        ("c.jsonl", b'{"text": "a"}\n{"text": \xff"a"}\n', "row 1 is neither UTF-8 nor JSON"),
        (
            "c.jsonl", b'{"text": "a"}\n{"text": "b", "meta": {"a\xff": 1}}\n',
            "row 1: column 'meta': a key in it is not UTF-8",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_utf8_text_is_refused_before_anything_is_computed(
    run: Any, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    keep = ("--keep", "meta") if b"meta" in content else ()
    done = run(tmp_path / name, *keep)
    assert done.code == 1
    assert name in done.screen[0]
    assert message in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
@pytest.mark.parametrize("column", ["text", "lang", "id"])
def test_a_dictionary_column_is_like_any_other(
    run: Any, bei: Bei, tmp_path: Path, column: str, suffix: str
) -> None:
    """With the indices of 8 bits that pandas has, which pyarrow reads otherwise from Parquet."""
    columns = zip(*(row(number)[:3] for number in range(ROWS)), strict=True)
    table = dict(zip(("id", "text", "lang"), map(strings, columns), strict=True))
    encoded = table[column].cast(pa.binary()).dictionary_encode()
    values = encoded.dictionary.view(pa.string())
    table[column] = pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int8()), values)
    if suffix == "parquet":
        pq.write_table(pa.table(table), tmp_path / "c.parquet", row_group_size=5)
    else:
        with pa.ipc.new_file(tmp_path / "c.arrow", pa.table(table).schema) as writer:
            writer.write_table(pa.table(table))
    done = run(tmp_path / f"c.{suffix}", "--where", f"{column} <> 'x'", *WORDS)
    assert (done.code, done.json["rows"]["failed"]) == (3, 3)
    errors = read_output(bei, tmp_path / "out")["error"].to_pylist()
    assert {n: error.partition(":")[0] for n, error in enumerate(errors) if error} == ERRORS
