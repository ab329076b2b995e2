"""JSON Lines whose keys and types change from night to night."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import damaged_in_the_middle, write_parquet


def put(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def night(submit: Bei, bei: Bei, tmp_path: Path) -> Any:
    """Submit tmp_path/data, and verify it: exit code, summary, and the kept columns."""

    def submitted(*words: object) -> tuple[int, Any, list[dict[str, Any]]]:
        keep = ("--keep", "lang,n,meta", "--json", *words)
        done = submit(tmp_path / "data", "--output", tmp_path / "out", *keep)
        assert bei("verify", tmp_path / "out").code == 0
        rows = read_output(bei, tmp_path / "out").select(["id", "lang", "n", "meta"])
        return done.code, done.json, sorted(rows.to_pylist(), key=lambda row: int(row["id"]))

    return submitted


def row(number: int, **keys: object) -> dict[str, Any]:
    return {"id": number, "text": f"text of {number}", **keys}


def test_types_are_widened_where_every_value_stays_and_nothing_is_computed_again(
    night: Any, tmp_path: Path
) -> None:
    """A column of only nulls gets a type, an object a key, integers become floats."""
    data = tmp_path / "data"
    put(data / "a.jsonl", row(0, lang=None, n=1, meta={"a": 1}), row(1, lang=None, n=None))
    put(data / "b.jsonl", row(2, n=2))  # it lacks two of the keys
    code, summary, rows = night()
    assert (code, summary["run"]) == (0, 1)
    assert rows[2] == {"id": 2, "lang": None, "n": 2, "meta": None}
    put(data / "c.jsonl", row(3, lang="en", n=2.5, meta={"b": "x", "a": 2}))
    code, summary, rows = night()
    assert (code, summary["rows"]["computed"], summary["rows"]["reused"]) == (0, 1, 3)
    assert rows == [
        {"id": 0, "lang": None, "n": 1.0, "meta": {"a": 1, "b": None}},
        {"id": 1, "lang": None, "n": None, "meta": None},
        {"id": 2, "lang": None, "n": 2.0, "meta": None},
        {"id": 3, "lang": "en", "n": 2.5, "meta": {"a": 2, "b": "x"}},
    ]
    assert night()[1]["run"] == 2


def test_a_file_that_another_library_writes_again_in_another_layout_is_the_same_rows(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    path = tmp_path / "c.parquet"
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "text": ["one", "two", "three"],
            "lang": pa.array(["x", "y", None]).dictionary_encode(),
            "tags": [["p"], [], None],
            "data": [b"1", None, b"3"],
            "meta": [{"a": "p", "b": [1]}, None, {"a": None, "b": None}],
        }
    )
    pq.write_table(table, path)
    words = (path, "--keep", "lang,tags,data,meta", "--json")
    assert submit(*words).json["rows"]["computed"] == 3
    first = read_output(bei, tmp_path / "c.embed")
    pl.read_parquet(path).write_parquet(path)
    assert pq.read_schema(path).field("id").type == pa.large_string()
    done = submit(*words)
    assert (done.code, done.json["rows"]["computed"], done.json["rows"]["reused"]) == (0, 0, 3)
    assert read_output(bei, tmp_path / "c.embed").equals(first)
    assert bei("verify", tmp_path / "c.embed").code == 0


def test_a_type_that_does_not_go_with_the_others_names_file_row_key_and_both_types(
    night: Any, tmp_path: Path
) -> None:
    """While a file is bad, its earlier rows could not be written anew: nothing is widened."""
    data = tmp_path / "data"
    put(data / "a.jsonl", row(0, lang="en", n=1, meta=None))
    put(data / "b.jsonl", row(1, lang="de"))
    assert night()[0] == 0
    put(data / "b.jsonl", row(1, lang=None), row(2, lang=7))
    put(data / "c.jsonl", row(3, n=1.5))
    put(data / "d.jsonl", row(4))
    code, summary, rows = night()
    assert code == 3
    skipped = {Path(one["uri"]).name: one["reason"] for one in summary["files"]["skipped"]}
    plan = "in the plan of this output"
    assert f"b.jsonl: row 1: column 'lang' is int64, but string {plan}" in skipped["b.jsonl"]
    assert f"c.jsonl: row 0: column 'n' is double, but int64 {plan}" in skipped["c.jsonl"]
    assert [(kept["id"], kept["lang"], kept["n"]) for kept in rows] == [
        (0, "en", 1), (1, "de", None), (4, None, None),
    ]  # fmt: skip
    put(data / "b.jsonl", row(1, lang=None), row(2, lang="fr"))
    code, summary, rows = night()
    assert (code, [kept["n"] for kept in rows]) == (0, [1.0, None, None, 1.5, None])


@pytest.mark.parametrize("nights", [1, 2])
@pytest.mark.parametrize("bad", ["where", "shard"])
def test_what_a_skipped_file_says_of_types_does_not_count(
    submit: Bei, bei: Bei, tmp_path: Path, bad: str, nights: int
) -> None:
    """It is found to be bad when its condition is read, or only when its rows are."""
    data, output = tmp_path / "data", tmp_path / "out"
    words: tuple[object, ...] = (data, "--output", output, "--keep", "n", "--json")
    words += ("--where", "CAST(w AS INT) = 1") if bad == "where" else ()

    def n() -> tuple[pa.DataType, list[object]]:
        column = read_output(bei, output)["n"]
        assert bei("verify", output).code == 0
        return column.type, column.to_pylist()

    for name in "ac":
        write_parquet(data / f"{name}.parquet", 20, seed=ord(name), n=[*range(20)], w=["1"] * 20)
    if nights == 2:
        assert submit(*words).code == 0
    w = ["1"] * 19 + ["no" if bad == "where" else "1"]
    write_parquet(data / "b.parquet", 20, seed=9, n=[0.5] * 20, w=w)
    if bad == "shard":
        damaged_in_the_middle(data / "b.parquet", 1)
    done = submit(*words)
    assert (done.code, [Path(one["uri"]).name for one in done.json["files"]["skipped"]]) == (
        3, ["b.parquet"],
    )  # fmt: skip
    assert done.json["rows"]["computed"] == (40 if nights == 1 and bad == "where" else 0)
    assert n() == (pa.int64(), [*range(20)] * 2)
    # A file that is read has its say, whatever another one is.
    write_parquet(data / "d.parquet", 20, seed=8, n=[0.5] * 20, w=["1"] * 20)
    assert submit(*words).code == 3
    assert n() == (pa.float64(), [*map(float, range(20))] * 2 + [0.5] * 20)


LARGE, BEYOND = 2**53 + 1, "column 'n' has an integer beyond 2**53"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": [1, LARGE], "b.jsonl": [0.5]}, f"a.jsonl: {BEYOND}, in row 1 or after it"),
        ({"a.jsonl": [0.5, 1, -LARGE]}, f"a.jsonl: row 2: {BEYOND}"),
        ({"a.jsonl": [LARGE, 0.5]}, f"a.jsonl: row 0: {BEYOND}"),
        ({"a.jsonl": [0.5], "b.parquet": [1, LARGE]}, f"b.parquet: {BEYOND}"),
        ({"a.jsonl": [0.5], "b.arrow": [1, LARGE]}, "b.arrow: row 1: column 'n' is int64"),
        ({"a.jsonl": [[0.5]], "b.jsonl": [[1], [2, LARGE]]}, "b.jsonl: row 1: column 'n' cannot"),
    ],
)
def test_an_integer_that_no_float_holds_is_refused_with_its_file_and_row(
    submit: Bei, tmp_path: Path, files: dict[str, list[Any]], message: str
) -> None:
    """At once where the plan sees the values; else by the shard that reads them."""
    for name, values in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        rows = [row(number, n=value) for number, value in enumerate(values)]
        table = pa.Table.from_pylist(rows) if name.endswith(("t", "w")) else None
        if name.endswith(".parquet"):
            pq.write_table(table, path)
        elif name.endswith(".arrow"):
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        else:
            put(path, *rows)
    refused = submit(tmp_path / "data", "--keep", "n", "--max-bad-files", 0)
    assert refused.code == 1
    assert message in refused.err
    whole = {"a.jsonl": [1, LARGE - 1], "b.jsonl": [0.5]}
    for name, values in whole.items():
        put(tmp_path / "whole" / name, *(row(number, n=n) for number, n in enumerate(values)))
    assert submit(tmp_path / "whole", "--keep", "n", "--max-bad-files", 0).code == 0
