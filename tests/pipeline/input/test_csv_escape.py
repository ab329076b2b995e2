"""CSV whose quotes are escaped: cut anywhere, it is read as other readers read it as a whole."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_plans import plan_of

from pipeline.errors import InputError
from pipeline.input.formats import text as text_format
from pipeline.input.reading import read
from pipeline.output.plan import Plan, make_plan
from pipeline.shards import Cut, InputFile, shard_id

Rows = list[tuple[str, ...]]
QUOTING = [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONE]


def rows_of(path: Path, escape: str, step: int = 1) -> Rows:
    """Every row, in shards of `step` rows that are read one by one."""
    columns = ("id", "text")
    planned = plan_of(
        [path], columns=columns, text_columns=(), csv_escape=escape, rows_per_shard=step
    )
    ((file, cuts),) = planned.files
    found: Rows = []
    for cut in cuts:
        for _, batch in read(file, [cut], planned.schema, 128):
            found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
    assert len(found) == file.rows
    return found


def whole(path: Path, escape: str) -> Rows:
    """What pyarrow reads of the file at once."""
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(escape_char=escape, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(("id", "text"), pa.string())
        ),
    )
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(st.sampled_from('a",\n\r\\é^')), st.text(st.sampled_from('a",\n\\^'))),
        min_size=1,
        max_size=12,
    ),
    quoting=st.sampled_from(QUOTING),
    escape=st.sampled_from("\\^"),
    doubled=st.booleans(),
    block=st.integers(1, 40),
    step=st.integers(1, 5),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Rows,
    quoting: int,
    escape: str,
    doubled: bool,
    block: int,
    step: int,
) -> None:
    doubled = doubled and quoting != csv.QUOTE_NONE
    sink = io.StringIO()
    writer = csv.writer(
        sink, quoting=quoting, escapechar=escape, doublequote=doubled, lineterminator="\r\n"
    )
    writer.writerows([("id", "text"), *rows])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(sink.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_format, "_BLOCK_BYTES", block)
        assert rows_of(path, escape, step) == rows


@settings(max_examples=300, deadline=None)
@given(
    body=st.text(st.sampled_from('ab",,\n\\"'), max_size=60),
    block=st.integers(1, 40),
)
def test_any_text_is_read_as_pyarrow_reads_it_at_once_or_refused(
    tmp_path_factory: pytest.TempPathFactory, body: str, block: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text(f"id,text\n{body}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_format, "_BLOCK_BYTES", block)
        try:
            found = rows_of(path, "\\")
        except InputError:
            return
    assert found == whole(path, "\\")


@pytest.mark.parametrize(
    ("field", "strict"),
    [
        (r'"he said \"hi\" there"', True),
        (r'"a \"quoted\", comma"', True),
        (r'"at the end \""', True),
        (r'"a\\b"', True),
        (r'"ends with one \\"', True),
        (r'"C:\new"', True),
        ('"two\nlines"', True),
        ('"two\\\nlines"', True),
        ('""', False),
        (r"C:\\new", False),
        (r"C:\new", False),
        (r"a\,b", False),
        (r"a\"b", False),
        (r"\"a\"", False),
        ("a\\\nb", False),
    ],
)
def test_duckdb_reads_the_same(tmp_path: Path, field: str, strict: bool) -> None:
    """Outside of quotes, its strict mode knows no escape."""
    path = tmp_path / "rows.csv"
    path.write_text(f"id,text\n1,{field}\n2,after\n")
    expected = duckdb.sql(
        f"FROM read_csv('{path}', escape='\\', quote='\"', delim=',', header=true, "
        f"auto_detect=false, columns={{'id': 'VARCHAR', 'text': 'VARCHAR'}}, strict_mode={strict})"
    ).fetchall()
    assert rows_of(path, "\\") == [(one, two or "") for one, two in expected]


def test_the_header_is_escaped_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,text,"a \\"third\\", one"\n1,x,y\n')
    planned = plan_of([path], columns=('a "third", one',), csv_escape="\\")
    assert planned.schema.names == ['a "third", one', "text"]


def test_it_belongs_to_the_plan_and_is_absent_from_those_without_it() -> None:
    file = InputFile("/in/a.csv", "a.csv", "1", 1, 20, "csv")
    escaped = replace(file, csv_escape="\\")
    cut = Cut(0, 20)
    ids = [shard_id("space", "schema", one, cut) for one in (file, escaped)]
    where = [replace(one, where="\\") for one in (file, escaped)]
    ids += [shard_id("space", "schema", one, cut) for one in where]
    assert len(set(ids)) == 4
    for one in (file, escaped, *where):
        plan = make_plan([(one, [cut])], space="space", schema="schema")
        assert Plan.from_bytes(plan.to_bytes()).files == (one,)


def test_another_escape_character_cuts_a_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,text\n1,"a\\\\"\n2,"b"\n')

    def plan(escape: str, **options: object) -> object:
        return plan_of(
            [tmp_path], columns=("id",), csv_escape=escape, max_bad_files="50%", **options
        ).files

    first = plan("")
    ((file, cuts),) = first
    known = {(file.uri, file.version): (replace(file, rows=7), [replace(cuts[0], rows=7)])}
    assert plan("", cuts=known)[0][0].rows == 7
    assert plan("\\", cuts=known)[0][0].rows == 2
