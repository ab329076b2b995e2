"""CSV as Python, pandas, polars, DuckDB and pyarrow write it, and as people do by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv

from samples.jsonl import COMPRESSIONS, UNKNOWN_TO_DUCKDB
from samples.sample import REFUSED, SAME, Sample, written
from samples.values import by_duckdb

ROWS = [
    ["id", "text", "k"], ["1", "one", "x"], ["2", 'say "hi", now', "line\nbreak"], ["3", "", ""],
    ["4", "ü😀\u2028\x85", "  spaced  "], ["5", "tab\there", "'"],
]  # fmt: skip
NAMES = "other names of columns"
DIALECT = "guesses another dialect"


def _csv(rows: list[list[str]] = ROWS, **options: Any) -> str:
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    return text.getvalue()


_UNIX = _csv(lineterminator="\n")
_SIMPLE = [["id", "text"], ["1", "a"], ["2", "b c"]]
# What → content, and how DuckDB differs.
_BY_HAND: tuple[tuple[str, str | bytes, str], ...] = (
    ("Python's csv (CRLF)", _csv(), SAME),
    ("LF", _UNIX, SAME),
    ("CR", _csv(_SIMPLE, lineterminator="\r"), SAME),
    ("LF, CRLF and CR", "id,text\n1,a\r\n2,b\r3,c\n", REFUSED),
    ("every line break in a text", 'id,text\r\n1,"a\rb\r\nc\nd"\r\n', SAME),
    ("no newline at the end", _UNIX.rstrip("\n"), SAME),
    ("all quoted", _csv(quoting=csv.QUOTE_ALL), SAME),
    ("a byte order mark", "\ufeff" + _csv(), SAME),
    ("a byte order mark before a quote", "\ufeff" + _csv(quoting=csv.QUOTE_ALL), SAME),
    ("blank lines", "\n\n" + _UNIX.replace("\n", "\n\n", 1) + "\n\n", SAME),
    ("quotes in a text without quotes", 'id,text\n1,a "b" c\n2,b"\n', SAME),
    ("text after a closing quote", 'id,text\n1,"q"x\n', REFUSED),
    ("quoted quotes", 'id,text\n1,""""\n2,""""""\n3,"a"""\n', SAME),
    ("a space before a quote", 'id,text\n1, "ab"\n', "removes space and quotes"),
    ("a quote that is not closed", 'id,text\n1,"a\n2,b\n', DIALECT),
    ('quotes written as \\"', 'id,text\n1,"a\\"b"\n2,"c"\n', DIALECT),
    ("a backslash at the end of a text", 'id,text\n1,"C:\\"\n2,"c\\\\"\n', SAME),
    ("a comma written as \\,", "id,text\n1,a\\,b\n", DIALECT),
    ("semicolons", _csv(_SIMPLE, delimiter=";"), DIALECT),
    ("tabs", _csv(_SIMPLE, delimiter="\t"), DIALECT),
    ("single quotes", _csv(_SIMPLE, quotechar="'", quoting=csv.QUOTE_ALL), DIALECT),
    ("a field too many", "id,text\n1,a\n2,b,c\n3,d\n", DIALECT),
    ("a field too few", "id,text,k\n1,a\n2,b,c\n", DIALECT),
    ("a comma at the end of the rows", "id,text\n1,a,\n2,b,\n", DIALECT),
    ("a comma at the end of every line", "id,text,\n1,a,\n2,b,\n", NAMES),
    ("empty fields, quoted or not", 'id,text,k\n,,\n"","",""\n1,"",\n', SAME),
    ("spaces", "id,text\n 1 , a \n", SAME),
    ("what looks like a number, a date, a null",
     "text,i,z,d,n\na,18446744073709551616,007,2024-01-01,NULL\nb,1e5,+1,12:00,NA\n", SAME),
    ("NUL", b"id,text\n1,a\0b\n2,c\n", SAME),
    ("control characters", "id,text\n1,a\x01\x1f\x0b\x0cb\n", SAME),
    ("a text of 3 MB", 'id,text\n1,"' + "y\n" * 1_500_000 + '"\n2,b\n', SAME),
    ("3,000 columns", f"text,{','.join(f'c{i}' for i in range(3000))}\na{',x' * 3000}\n", SAME),
    ("one column", 'text\na\n""\n"b"\n', SAME),
    ("one column, with an empty line", "text\na\n\nb\n", "a null"),
    ("one column, with empty lines at the end", "\ntext\na\nb\n\n\n", "a null for each"),
    ("only a header", "id,text\n", SAME),
    ("only a header, without a newline", "id,text", SAME),
    ("a quoted header", '"id","te""xt","a b","text"\n1,2,3,4\n', SAME),
    ("an empty column name", "text,,n\na,1,2\n", NAMES),
    ("column names that differ in case", "id,text,TEXT\n1,a,B\n", SAME),
    ("two columns of one name", "text,n,n\na,1,2\n", NAMES),
    ("spaces in column names", "id , text\n1,a\n", "removes them"),
    ("no header", "1,a\n2,b\n", DIALECT),
    ("a comment before the header", "# c\nid,text\n1,a\n", "skips the comment"),
    ("Latin-1", "id,text\n1,café\n".encode("latin1"), REFUSED),
    ("UTF-16", "id,text\n1,a\n".encode("utf-16"), REFUSED),
)  # fmt: skip
_FRAME = {"id": [1, 2, 3], "text": ["a", None, 'q"x'], "f": [1.5, None, 1e300]}


def _by_writers() -> Iterator[tuple[str, bytes, str]]:
    panda, polar = pd.DataFrame(_FRAME), pl.DataFrame(_FRAME)
    yield "pandas, with its index", panda.to_csv().encode(), NAMES
    yield "pandas", panda.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode(), SAME
    for style in ("necessary", "always", "non_numeric"):
        yield f"polars, {style} quotes", polar.write_csv(quote_style=style).encode(), SAME
    columns = "1 AS id, NULL AS n, '' AS e, 'x,\"' AS c"
    for options in ("FORMAT csv", "FORMAT csv, FORCE_QUOTE *"):
        yield f"DuckDB, {options}", by_duckdb(columns, options), SAME
    nulls = pl.DataFrame({"text": ["a", None, "b"]})
    yield "polars, one column with a null", nulls.write_csv().encode(), "a null"
    arrow = pa.table({"id": [1, 2, None], "text": ["a", None, 'q"x']})
    yield "pyarrow", written(".csv", lambda path: pyarrow.csv.write_csv(arrow, path)), SAME


def csv_samples() -> Iterator[Sample]:
    """One file for each thing that CSV may be."""
    for what, content, differs in (*_BY_HAND, *_by_writers()):
        data = content.encode() if isinstance(content, str) else content
        yield Sample(what, "rows.csv", data, differs)
    for suffix, compress in COMPRESSIONS.items():
        differs = REFUSED if suffix in UNKNOWN_TO_DUCKDB else SAME
        yield Sample(suffix, f"rows.csv{suffix}", compress(_csv().encode()), differs)
    tabs = _csv(_SIMPLE, delimiter="\t").encode()
    yield Sample("named .tsv, with tabs", "rows.tsv", tabs)
