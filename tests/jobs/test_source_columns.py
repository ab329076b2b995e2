"""Without an id column, `source_file` and `source_row` say where each row of the output is from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output
from corpora import parts, texts
from forgery import rewrite_part, with_values

from pipeline.planning import draft

Night = Callable[..., Outcome]


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of rows in the format of its suffix; blank lines in text count for nothing."""
    path.parent.mkdir(exist_ok=True, parents=True)
    lines = "\n\n".join(map(json.dumps, rows)) + "\n"
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif path.suffix == ".csv":
        fields = [f'"{row["text"] or ""}\n",{row["n"]}\n\n' for row in rows]
        path.write_text("text,n\n" + "".join(fields))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


def numbered(rows: int, *, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "n": first + n} for n, text in enumerate(texts(rows, seed))]


@pytest.fixture
def night(submit: Bei, bei: Bei, tmp_path: Path) -> Night:
    """Submit tmp_path/data, in shards of three rows, and verify the output."""

    def submitted(*words: object) -> Outcome:
        words = ("--output", tmp_path / "out", "--rows-per-shard", 3, "--keep", "n", *words)
        done = submit(tmp_path / "data", "--json", *words)
        assert done.code in (0, 3), done.err
        checked = bei("verify", tmp_path / "out")
        assert checked.code == 0, checked.out
        return done

    return submitted


@pytest.fixture
def sources(bei: Bei, tmp_path: Path) -> Callable[[], list[tuple[str, int, int]]]:
    """Name of the file, number of the row, and its n, which is that number in these corpora."""

    def read() -> list[tuple[str, int, int]]:
        table = read_output(bei, tmp_path / "out")
        assert table.column_names[:2] == ["source_file", "source_row"]
        assert table.schema.types[:2] == [pa.dictionary(pa.int32(), pa.string()), pa.int64()]
        columns = (table[name].to_pylist() for name in ("source_file", "source_row", "n"))
        return [(Path(file).name, row, int(n)) for file, row, n in zip(*columns, strict=True)]

    return read


NAMES = ("a.parquet", "b.jsonl", "c.csv", "d.jsonl.gz")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ((), [*range(10)]),
        (("--limit", 7), [*range(7)]),
        (("--where", "n <> 1 AND n % 3 < 2"), [0, 3, 4, 6, 7, 9]),
        (("--where", "n <> 1 AND n % 3 < 2", "--limit", 4), [0, 3, 4, 6]),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_format_counts_the_rows_of_the_file(
    night: Night, sources: Any, tmp_path: Path, name: str, words: tuple[object, ...], rows: Any
) -> None:
    cast = ("--where", words[1].replace("n ", "CAST(n AS INT) ")) if "--where" in words else ()
    put(tmp_path / "data" / name, numbered(10))
    night(*(words if name != "c.csv" else (*words, *cast)))
    assert sources() == [(name, row, row) for row in rows]


def test_a_row_is_found_by_what_duckdb_and_polars_call_its_source(
    night: Night, sources: Any, tmp_path: Path
) -> None:
    for number in range(3):
        put(tmp_path / f"data/{number}.parquet", numbered(10, seed=number))
    night()
    listed = [str(tmp_path / "out" / name) for name in parts(tmp_path / "out")]
    found = pl.scan_ipc(listed, glob=False).collect()
    found = found.select(pl.col("source_file").cast(pl.String), "source_row", "n")
    expected = duckdb.sql(
        f"SELECT filename, file_row_number, n FROM read_parquet('{tmp_path}/data/*.parquet', "
        "filename=true, file_row_number=true) ORDER BY 1, 2"
    ).fetchall()
    assert sorted(found.rows()) == expected
    # The name is there once for each part, whatever its rows.
    for name in parts(tmp_path / "out"):
        with pa.ipc.open_file(tmp_path / "out" / name) as reader:
            assert len(reader.read_all()["source_file"].chunk(0).dictionary) == 1


def test_a_result_that_is_copied_has_the_file_of_its_row(
    night: Night, sources: Any, tmp_path: Path
) -> None:
    """Duplicates in a run, a file that moved, rows in another order, and a file that is new."""
    data = tmp_path / "data"
    put(data / "a.parquet", numbered(5))
    put(data / "b.jsonl", numbered(5))
    assert night().json["rows"]["deduplicated"] == 5
    (data / "a.parquet").rename(data / "z.parquet")
    rows = numbered(5)[::-1]
    put(data / "c.jsonl", [{**row, "n": n} for n, row in enumerate(rows)])
    done = night()
    assert (done.json["rows"]["computed"], done.json["rows"]["reused"]) == (0, 15)
    assert sources() == [
        (name, n, n) for name in ("b.jsonl", "c.jsonl", "z.parquet") for n in range(5)
    ]


def test_rows_of_another_output_have_the_file_of_this_one(
    night: Night, submit: Bei, sources: Any, tmp_path: Path
) -> None:
    first = put(tmp_path / "first.jsonl", numbered(6))
    assert submit(first, "--output", tmp_path / "earlier").code == 0
    put(tmp_path / "data/second.jsonl", numbered(6))
    assert night("--reuse-from", tmp_path / "earlier").json["rows"]["computed"] == 0
    assert sources() == [("second.jsonl", n, n) for n in range(6)]


def test_a_repaired_shard_and_the_quarantine_name_the_same_rows(
    night: Night, bei: Bei, submit: Bei, sources: Any, tmp_path: Path
) -> None:
    rows = numbered(10)
    rows[4]["text"] = None
    put(tmp_path / "data/a.parquet", rows)
    assert night("--where", "n > 1").json["rows"]["failed"] == 1
    before = sources()
    assert before == [("a.parquet", n, n) for n in range(2, 10)]
    quarantined = pq.read_table(tmp_path / "out/_bei/quarantine")
    assert quarantined["bei_row"].to_pylist() == quarantined["n"].to_pylist() == [4]
    assert bei("retry", tmp_path / "out", "--json").json["run"] == 2
    assert bei("verify", tmp_path / "out").code == 0
    assert sources() == before
    # Submitted on its own, the quarantine is another file: what it says of the rows can be kept.
    words = ("--keep", "bei_input,bei_row", "--max-failed-rows", "100%")
    assert submit(tmp_path / "out/_bei/quarantine", "--output", tmp_path / "x", *words).code == 3
    again = read_output(bei, tmp_path / "x")
    assert again["source_row"].to_pylist() == [0]
    assert again["bei_row"].to_pylist() == [4]
    assert again["bei_input"].to_pylist() == [str(tmp_path / "data/a.parquet")]


def test_an_output_that_was_begun_without_them_goes_on_as_it_began(
    night: Night, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data/a.parquet", numbered(5))
    real = draft.make_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            draft, "make_spec", lambda *words: replace(real(*words), source_columns=False)
        )
        assert night().json["run"] == 1
    begun, stored = parts(tmp_path / "out"), (tmp_path / "out/_bei/runs/1/run.json").read_text()
    assert "source_columns" not in stored
    again = night()
    assert (again.json["run"], parts(tmp_path / "out")) == (1, begun)
    assert "begun without" in again.json["choices"]["id-column"]["reason"]
    put(tmp_path / "data/b.parquet", numbered(5, seed=1))
    assert night().json["rows"]["computed"] == 5
    assert set(begun) < set(parts(tmp_path / "out"))
    assert read_output(bei, tmp_path / "out").column_names[0] == "n"


def test_an_id_takes_their_place(night: Night, bei: Bei, tmp_path: Path) -> None:
    put(tmp_path / "data/a.parquet", numbered(5))
    night("--id-column", "n")
    assert read_output(bei, tmp_path / "out").column_names[:2] == ["n", "embedding"]
    # Without it, the rows would have no key: they are written anew, and not computed.
    assert night().json["rows"]["computed"] == 0
    assert read_output(bei, tmp_path / "out").column_names[:3] == ["source_file", "source_row", "n"]


def test_a_kept_column_of_that_name_is_kept_and_this_is_said(
    night: Night, bei: Bei, tmp_path: Path
) -> None:
    rows = [{**row, "source_row": f"own {row['n']}"} for row in numbered(5)]
    put(tmp_path / "data/a.parquet", rows)
    done = night("--keep", "source_row")
    table = read_output(bei, tmp_path / "out")
    assert table.column_names[:3] == ["n", "source_row", "embedding"]
    assert table["source_row"].to_pylist() == [row["source_row"] for row in rows]
    assert "a kept column is named source_row" in done.json["choices"]["id-column"]["reason"]


def test_columns_of_that_name_that_are_not_kept_or_are_read_are_no_matter(
    night: Night, sources: Any, tmp_path: Path
) -> None:
    rows = [{**row, "source_row": f"own {row['n']}", "source_file": 7} for row in numbered(5)]
    put(tmp_path / "data/a.parquet", rows)
    night("--text-column", "source_row", "--where", "source_file = 7")
    assert sources() == [("a.parquet", n, n) for n in range(5)]


def test_plan_and_submit_say_so(night: Night, bei: Bei, tmp_path: Path) -> None:
    put(tmp_path / "data/a.parquet", numbered(5))
    model = Path(__file__).parents[1] / "goldens/bert_mean"
    planned = bei("plan", tmp_path / "data", "--model", model, "--device", "cpu", "--json")
    choice = planned.json["choices"]["id-column"]
    assert choice["value"] == "none"
    assert "source_file and source_row say where each row is from" in choice["reason"]
    assert choice == night().json["choices"]["id-column"]


@pytest.mark.parametrize(
    ("column", "change", "where"),
    [
        ("source_row", lambda row: row + 1, ()),
        ("source_row", lambda row: row * 0, ("--where", "n > 1")),
        ("source_row", lambda row: row - row // 5, ("--where", "n <> 4")),
        ("source_file", lambda file: file.replace("data", "date"), ()),
    ],
)
def test_verify_compares_them_with_the_plan_and_the_input(
    night: Night, bei: Bei, tmp_path: Path, column: str, change: Any, where: tuple[str, ...]
) -> None:
    put(tmp_path / "data/a.parquet", numbered(6))
    night(*where)
    rewrite_part(
        tmp_path / "out" / parts(tmp_path / "out")[-1],
        lambda table: with_values(table, column, [*map(change, table[column].to_pylist())]),
    )

    def problems() -> list[str]:
        found: list[str] = bei("verify", tmp_path / "out", "--json").json["problems"]
        return [problem for problem in found if column in problem]

    assert problems()
    (tmp_path / "data/a.parquet").unlink()
    # Of selected rows, only their order and their range are known without the input.
    assert bool(problems()) == (where != ("--where", "n <> 4"))
