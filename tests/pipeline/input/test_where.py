"""`--where`: which rows an expression selects, and how they are planned and read."""

from __future__ import annotations

import datetime
import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from input_plans import plan_of

from pipeline.errors import InputError, UsageError
from pipeline.input.cuts import merged_cuts
from pipeline.input.cutting import PlannedInputs
from pipeline.input.formats import parquet as parquet_format
from pipeline.input.reading import read_numbered
from pipeline.input.where import canonical_where, where_columns
from pipeline.shards import Cut, InputFile


def plan(uri: object, where: str, **options: Any) -> PlannedInputs:
    given = {"columns": ("id",), "rows_per_shard": 7, **options}
    return plan_of([uri], where=canonical_where(where), **given)


def rows_read(planned: PlannedInputs, batch_rows: int = 4) -> list[tuple[int, int]]:
    """(row in its file, id) of every selected row, as shards read them."""
    found = []
    for file, cuts in planned.files:
        counts = [0] * len(cuts)
        for index, numbers, batch in read_numbered(file, cuts, planned.schema, batch_rows):
            assert len(numbers) == batch.num_rows > 0
            counts[index] += batch.num_rows
            cut = cuts[index]
            assert all(cut.first_row <= number < cut.end for number in numbers)
            found += zip(numbers.tolist(), batch.column("id").to_pylist(), strict=True)
        assert counts == [cut.rows for cut in cuts]
    return found


def write(path: Path, table: pa.Table, row_group: int = 5) -> Path:
    """A table in the format of the file's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=row_group)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as out:
            out.write_table(table, max_chunksize=row_group)
    elif path.suffix == ".arrows":
        with pa.ipc.new_stream(path, table.schema) as out:
            out.write_table(table, max_chunksize=row_group)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row, default=str)}\n" for row in table.to_pylist()))
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    return path


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "lang": st.sampled_from(["en", "de", "it's", "", None]),
            "n": st.integers(-3, 3) | st.none(),
            "published": st.dates(datetime.date(2025, 12, 30), datetime.date(2026, 1, 2))
            | st.none(),
        }
    ),
    max_size=40,
)
EXPRESSIONS = st.recursive(
    st.sampled_from(
        [
            "lang = 'en'", "lang <> 'de'", "lang = 'it''s'", "lang IS NULL", "lang IN ('en','de')",
            "lang LIKE '%e%'", "length(lang) > 1", "n > 0", "n BETWEEN -1 AND 1", "n IS NOT NULL",
            "n = 1 OR lang = ''", "published >= '2026-01-01'", "abs(n) = 2", "n + 1 > 1",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) and ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) OR ({two[1]})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrows", "jsonl"])
@given(rows=ROWS, where=EXPRESSIONS, step=st.integers(1, 12))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rows_are_those_of_polars(
    tmp_path: Path, suffix: str, rows: list[dict[str, Any]], where: str, step: int
) -> None:
    schema = pa.schema([("lang", pa.string()), ("n", pa.int64()), ("published", pa.date32())])
    first = {"lang": "en", "n": 1, "published": datetime.date(2026, 1, 1)}  # JSON has types by it
    rows = [first, *rows]
    table = pa.Table.from_pylist(rows, schema)
    table = table.append_column("id", pa.array(range(len(rows))))
    table = table.append_column("text", pa.array(["t"] * len(rows)))
    path = write(tmp_path / f"rows.{suffix}", table)
    frame = pl.from_arrow(table)
    if suffix == "jsonl":  # has no dates
        frame = frame.with_columns(pl.col("published").cast(pl.String))
    expected = pl.SQLContext(t=frame).execute(f"SELECT id FROM t WHERE {where}", eager=True)
    planned = plan(path, where, rows_per_shard=step)
    assert [row for row, _ in rows_read(planned)] == expected["id"].to_list()
    assert [row for _, row in rows_read(planned)] == expected["id"].to_list()
    for file, cuts in planned.files:
        assert [cut.end for cut in cuts[:-1]] == [cut.first_row for cut in cuts[1:]]
        assert not cuts or (cuts[0].first_row, cuts[-1].end) == (0, file.rows)
        assert all(0 < cut.rows <= step for cut in cuts)


def test_columns_of_csv_are_strings(tmp_path: Path) -> None:
    rows = "".join(f"{i},t,{'en' if i % 3 else 'de'},{i}\n" for i in range(20))
    path = tmp_path / "a.csv"
    path.write_text(f"id,text,lang,n\n{rows}")
    planned = plan(path, "lang = 'de' AND CAST(n AS INT) > 9")
    assert rows_read(planned) == [(12, "12"), (15, "15"), (18, "18")]


@pytest.mark.parametrize(
    ("where", "days"),
    [("day = '2'", ["2"]), ("day > '1' AND id = 1", ["2", "3"]), ("id < 0 OR day = '1'", ["1"])],
)
def test_hive_keys_are_columns(tmp_path: Path, where: str, days: list[str]) -> None:
    for day in "123":
        (tmp_path / f"day={day}").mkdir()
        for name in ("a.parquet", "b.jsonl", "c.arrow"):
            table = pa.table({"id": [0, 1, 2], "text": ["t"] * 3})
            write(tmp_path / f"day={day}" / name, table)
    planned = plan(tmp_path, where)
    assert {dict(file.partition)["day"] for file, cuts in planned.files if cuts} == set(days)
    per_file = 1 if "id = 1" in where else 3
    assert len(rows_read(planned)) == per_file * 3 * len(days)


def test_a_hive_key_that_cannot_be_tested_makes_its_file_a_bad_one(tmp_path: Path) -> None:
    for day in ("1", "x", "3"):
        (tmp_path / f"day={day}").mkdir()
        write(tmp_path / f"day={day}/a.parquet", pa.table({"id": [0], "text": ["t"]}))
    planned = plan(tmp_path, "CAST(day AS INT) > 2", max_bad_files="50%")
    ((uri, reason),) = planned.skipped
    assert "day=x" in uri
    assert "--where" in reason
    assert rows_read(planned) == [(0, 0)]


def test_only_row_groups_with_a_selected_row_are_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others, only the columns of the expression."""
    table = pa.table({"id": range(40), "text": ["t"] * 40, "lang": ["de"] * 30 + ["en"] * 10})
    path = write(tmp_path / "a.parquet", table, row_group=10)
    read: list[tuple[int, tuple[str, ...]]] = []
    original = parquet_format.ParquetReader._group

    def noted(self: Any, index: int, first: int, last: Cut, columns: list[str], rows: int) -> Any:
        read.append((index, tuple(columns)))
        return original(self, index, first, last, columns, rows)

    monkeypatch.setattr(parquet_format.ParquetReader, "_group", noted)
    planned = plan(path, "lang = 'en'", rows_per_shard=100)
    assert read == [(group, ("lang",)) for group in range(4)]
    read.clear()
    assert len(rows_read(planned)) == 10
    assert read == [*((group, ("lang",)) for group in range(4)), (3, ("id", "text", "lang"))]


@given(selected=st.lists(st.integers(0, 5), min_size=1, max_size=30), limit=st.integers(5, 12))
def test_cuts_of_few_selected_rows_become_one(selected: list[int], limit: int) -> None:
    merged = merged_cuts([Cut(5 * i, 5) for i in range(len(selected))], selected, limit)
    assert sum(cut.rows for cut in merged) == sum(selected)
    assert all(0 < cut.rows <= limit for cut in merged)
    assert all(one.rows + two.rows > limit - 5 for one, two in itertools.pairwise(merged))
    if merged:
        assert [cut.first_row for cut in merged] == [0, *(cut.end for cut in merged[:-1])]
        assert merged[-1].end == 5 * len(selected)


def test_an_unchanged_file_keeps_its_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, lang in (("a", "en"), ("b", "de")):
        table = pa.table({"id": range(20), "text": ["t"] * 20, "lang": [lang] * 20})
        write(tmp_path / f"{name}.parquet", table)
    first = plan(tmp_path, "lang = 'en'")
    assert [sum(cut.rows for cut in cuts) for _, cuts in first.files] == [20, 0]
    earlier = {(file.uri, file.version): (file, cuts) for file, cuts in first.files}
    known: dict[str, Any] = {"cuts": earlier, "schema": first.schema}
    monkeypatch.setattr("pipeline.input.cutting.inspect", None)
    assert plan(tmp_path, "lang='en'", **known) == first
    with pytest.raises(TypeError):
        plan(tmp_path, "lang = 'de'", **known)


def test_no_row_is_selected_by_a_null(tmp_path: Path) -> None:
    table = pa.table({"id": [0, 1, 2], "text": ["t"] * 3, "n": [1, None, 3]})
    path = write(tmp_path / "a.parquet", table)
    assert rows_read(plan(path, "n > 1")) == [(2, 2)]
    assert rows_read(plan(path, "NOT n > 1")) == [(0, 0)]
    assert rows_read(plan(path, "n IS NULL")) == [(1, 1)]


def test_columns_of_every_kind_pass_a_selection(tmp_path: Path) -> None:
    """pyarrow cannot filter all of them."""
    kept = {
        "view": pa.array(["a", None, "c", "d"], pa.string_view()),
        "lists": pa.array([[1], None, [], [2, 3]], pa.list_view(pa.int64())),
        "codes": pa.array(["x", "y", None, "x"]).dictionary_encode(),
        "struct": pa.array([{"a": 1}, None, {"a": 3}, {"a": 4}]),
    }
    path = tmp_path / "a.arrow"
    write(path, pa.table({"id": range(4), "text": ["t"] * 4, **kept}), row_group=4)
    planned = plan(path, "id <> 2", columns=("id", *kept))
    ((file, cuts),) = planned.files
    ((_, numbers, batch),) = read_numbered(file, cuts, planned.schema, 10)
    assert numbers.tolist() == [0, 1, 3]
    for name, column in kept.items():
        values = column.to_pylist()
        assert batch.column(name).to_pylist() == [values[0], values[1], values[3]]


@pytest.mark.parametrize("kind", [pa.list_view(pa.int64()), pa.large_list_view(pa.int64())])
def test_list_views_select_rows(tmp_path: Path, kind: pa.DataType) -> None:
    """polars reads none, and pyarrow casts them to lists with wrong offsets."""
    column = pa.array([[9, 9], [1], None, [], [2, 3], [4]], kind).slice(1)
    table = pa.table({"id": range(5), "text": ["t"] * 5, "lists": column})
    path = write(tmp_path / "a.arrow", table, row_group=3)
    assert [row for row, _ in rows_read(plan(path, "array_length(lists) > 0"))] == [0, 3, 4]
    assert [row for row, _ in rows_read(plan(path, "array_contains(lists, 3)"))] == [3]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("lang =", "--where 'lang ='"),
        ("lang = 'en", "--where"),
        ("lang = 'en'; DROP TABLE rows", "unexpected"),
        ("", "names no column"),
        ("1 = 1", "names no column"),
        ("-- nothing", "names no column"),
        ("count(*) > 1", "count()"),
        ("n > AVG(n)", "AVG()"),
        ("sum(n) over (partition by lang) > 1", "sum()"),
        ("first_value (n) = 1", "first_value()"),
        ("n > (SELECT 1)", "SELECT"),
        ("n IN (SELECT n FROM rows)", "SELECT"),
        ("published < now()", "now()"),
        ("published < current_date", "current_date"),
        ("random() < n", "random()"),
        ("read_csv('/etc/passwd') = lang", "read_csv()"),
    ],
)
def test_what_is_no_condition_of_one_row_is_refused(where: str, said: str) -> None:
    with pytest.raises(UsageError, match="--where") as caught:
        canonical_where(where)
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("n", "Int64, and neither true nor false"),
        ("n || 'x'", "neither true nor false"),
        ("n = 'x'", "cannot compare string with numeric"),
        ("lang", "neither true nor false"),
        ("n alias", "--where 'n alias'"),
    ],
)
def test_what_is_not_boolean_is_refused(tmp_path: Path, where: str, said: str) -> None:
    table = pa.table({"id": [0], "text": ["t"], "n": [1], "lang": ["en"]})
    with pytest.raises(UsageError, match="--where") as caught:
        plan(write(tmp_path / "a.parquet", table), where)
    assert said in caught.value.message


def test_a_column_that_a_file_lacks_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"id": [0], "text": ["t"]}))
    with pytest.raises(InputError, match="no column 'lang'; it has id, text") as caught:
        plan(path, "lang = 'en'")
    assert "--where" in caught.value.hint


def test_a_value_that_cannot_be_tested_makes_its_file_a_bad_one(tmp_path: Path) -> None:
    for name, n in (("a", "1"), ("b", "x"), ("c", "3")):
        write(tmp_path / f"{name}.parquet", pa.table({"id": [0], "text": ["t"], "n": [n]}))
    planned = plan(tmp_path, "CAST(n AS INT) > 2", max_bad_files="50%")
    ((uri, reason),) = planned.skipped
    assert Path(uri).name == "b.parquet"
    assert "b.parquet: --where 'CAST ( n AS INT ) > 2': conversion from" in reason
    assert rows_read(planned) == [(0, 0)]


def test_bytes_that_are_no_text_are_not_handed_to_polars_and_their_row_is_selected(
    tmp_path: Path,
) -> None:
    text = pa.array([b"\xff", b"de", b"en"]).view(pa.string())
    path = write(
        tmp_path / "a.parquet", pa.table({"id": [0, 1, 2], "text": ["t"] * 3, "lang": text})
    )
    assert [row for row, _ in rows_read(plan(path, "upper(lang) = 'EN'"))] == [0, 2]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("lang='en'  and\n\tn>1", "lang = 'en' AND n > 1"),
        ("lang = 'it''s  and' -- a comment", "lang = 'it''s  and'"),
        ('"Not Null" is /* or not */ not null', '"Not Null" IS NOT NULL'),
        ("n in(1,2)", "n IN ( 1 , 2 )"),
        ("Lang ~* '^E'", "Lang ~* '^E'"),
    ],
)
def test_the_canonical_text(written: str, canonical: str) -> None:
    assert canonical_where(written) == canonical
    assert canonical_where(canonical) == canonical


@given(where=EXPRESSIONS)
def test_the_canonical_text_means_the_same(where: str) -> None:
    text = canonical_where(where)
    assert canonical_where(text) == text
    assert pl.sql_expr(text).meta.eq(pl.sql_expr(where))
    assert set(where_columns(text)) <= {"lang", "n", "published"}


def test_an_expression_is_part_of_what_names_a_shard() -> None:
    from pipeline.shards import shard_id

    def named(where: str, **cut: int) -> str:
        file = InputFile("/a", "a", "1", 1, 20, "parquet", where=where)
        return shard_id("s", "k", file, Cut(0, 5, **cut))

    names = [
        named(""), named("n = 1", extent=10), named("n = 2", extent=10), named("n = 1", extent=11),
        named("n = 1", extent=10, repair=1),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert named("") == "8c4a93b37f7c4143"
