"""Which of several files that disagree are the bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_plans import plan_of

from pipeline.errors import InputError
from pipeline.input.cutting import PlannedInputs


def put(folder: Path, name: str, rows: int = 2, **columns: Any) -> None:
    """A Parquet file with `text`; of a type, a column of nulls of that type."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        key: pa.array([{pa.int64(): 1, pa.float64(): 0.5, pa.string(): "x"}.get(kind)] * rows, kind)
        for key, kind in {"text": pa.string(), **columns}.items()
        if kind is not None
    }
    pq.write_table(pa.table(arrays), path)


def plan(folder: Path, **options: Any) -> PlannedInputs:
    return plan_of([folder], **{"optional": ("id",), "max_bad_files": "50%", **options})


def bad(planned: PlannedInputs) -> list[str]:
    """The names of the files that are left out; the others are all there."""
    names = [Path(uri).stem for uri, _ in planned.skipped]
    assert not {Path(file.uri).stem for file, _ in planned.files} & set(names)
    return names


INT, DOUBLE, STRING, LIST, NULL = (
    pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()), pa.null(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("types", "kind", "left_out"),
    [
        ([INT, STRING, STRING], STRING, ["a"]),  # not the first file's opinion
        ([STRING, INT, STRING], STRING, ["b"]),
        ([INT, STRING], INT, ["b"]),  # of equally many, the first
        ([STRING, INT, INT, STRING], STRING, ["b", "c"]),
        ([INT, DOUBLE, INT], DOUBLE, []),  # a type that all can join is no disagreement
        ([STRING, DOUBLE, INT, INT], DOUBLE, ["a"]),  # and is found among the others
        ([NULL, NULL, NULL, STRING, INT, INT], INT, ["d"]),  # nulls join any type
        ([LIST, NULL, STRING], LIST, ["c"]),
    ],
)
def test_the_type_of_most_files_counts(
    tmp_path: Path, types: list[pa.DataType], kind: pa.DataType, left_out: list[str]
) -> None:
    for name, each in zip("abcdef", types, strict=False):
        put(tmp_path, f"{name}.parquet", id=each)
    planned = plan(tmp_path)
    assert bad(planned) == left_out
    assert planned.schema.field("id").type == kind
    for _, reason in planned.skipped:
        assert f"column 'id' is {types['abcdef'.index(left_out[0])]}" in reason


def test_files_are_counted_and_not_rows(tmp_path: Path) -> None:
    put(tmp_path, "a.parquet", rows=100, id=INT)
    for name in "bc":
        put(tmp_path, f"{name}.parquet", rows=1, id=STRING)
    assert bad(plan(tmp_path)) == ["a"]


def test_the_planned_type_counts_where_there_is_a_plan(tmp_path: Path) -> None:
    for name, kind in zip("abcd", [STRING, STRING, INT, INT], strict=True):
        put(tmp_path, f"{name}.parquet", id=kind)
    schema = pa.schema([("id", INT), ("text", pa.large_string())])
    planned = plan(tmp_path, schema=schema)
    assert bad(planned) == ["a", "b"]
    assert planned.schema == schema
    assert "but int64 in the plan of this output" in planned.skipped[0][1]


@pytest.mark.parametrize(
    ("having", "left_out", "names"),
    [
        ("ab", ["c"], ["id", "text"]),
        ("a", ["a"], ["text"]),
        ("", [], ["text"]),
    ],
)
def test_an_id_is_there_where_at_least_half_of_the_files_have_it(
    tmp_path: Path, having: str, left_out: list[str], names: list[str]
) -> None:
    for name in "abc":
        put(tmp_path, f"{name}.parquet", id=STRING if name in having else None)
    planned = plan(tmp_path)
    assert bad(planned) == left_out
    assert planned.schema.names == names


def test_an_id_that_half_of_the_files_have_is_there(tmp_path: Path) -> None:
    put(tmp_path, "a.parquet")
    put(tmp_path, "b.parquet", id=INT)
    planned = plan(tmp_path)
    assert bad(planned) == ["a"]
    assert "has no column 'id', but" in planned.skipped[0][1]


def test_a_bad_file_has_no_say_in_the_columns_of_the_others(tmp_path: Path) -> None:
    """It would widen the id, had it a text."""
    put(tmp_path, "a.parquet", id=DOUBLE, text=INT)
    for name in "bc":
        put(tmp_path, f"{name}.parquet", id=INT)
    planned = plan(tmp_path)
    assert bad(planned) == ["a"]
    assert planned.schema.field("id").type == INT


def test_the_hive_keys_of_most_paths_count(tmp_path: Path) -> None:
    for name in ("lang=de/a", "lang=en/b", "c", "old=1/lang=fr/d"):
        put(tmp_path, f"{name}.parquet")
    planned = plan(tmp_path)
    assert sorted(bad(planned)) == ["c", "d"]
    assert planned.partition == ("lang",)
    reasons = " ".join(reason for _, reason in planned.skipped)
    assert "no lang=… directory" in reasons
    assert "hive key 'old', which most paths lack" in reasons


def test_a_missing_column_is_the_files_own_fault(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, f"{name}.parquet", lang=None if name == "b" else STRING)
    planned = plan(tmp_path, columns=("lang",))
    assert bad(planned) == ["b"]
    assert "has no column 'lang'; it has text" in planned.skipped[0][1]


@pytest.mark.parametrize("limit", ["0", "1%", "33%"])
def test_the_first_one_is_the_error_where_none_is_allowed(tmp_path: Path, limit: str) -> None:
    """And is seen from the first file, as before there was a budget."""
    for name, kind in zip("abc", [INT, STRING, STRING], strict=True):
        put(tmp_path, f"{name}.parquet", id=kind)
    with pytest.raises(InputError, match=r"/b\.parquet: column 'id' is string, but int64 in .*/a"):
        plan(tmp_path, max_bad_files=limit)
