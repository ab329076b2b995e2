"""JSON Lines whose keys and types change from night to night."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, read_output


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
