"""Files as real writers make them, and odd ones: read as DuckDB reads them, or it is said how not.

Arrow IPC, which DuckDB does not read, as polars reads it. `docs/formats.md` shows the outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import ROOT
from samples.arrow import arrow_samples
from samples.csv import csv_samples
from samples.jsonl import jsonl_samples
from samples.page import page
from samples.parquet import encrypted, parquet_samples
from samples.read import outcome, plan
from samples.read import rows as rows_of
from samples.sample import REFUSED, SAME, Sample
from samples.values import INTS

from pipeline.errors import InputError

CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'")


def rows(table: str, **tables: pa.Table) -> list[str]:
    """Rows as text, which shows every value and type of value, after the names of the columns."""
    for name, each in tables.items():
        CONNECTION.register(name, each)
    names = CONNECTION.execute(f"SELECT column_name FROM (DESCRIBE FROM {table})").fetchall()
    return [
        str(names),
        *(row for (row,) in CONNECTION.execute(f"SELECT r::VARCHAR FROM {table} r").fetchall()),
    ]


def parquet_rows(path: Path, found: pa.Table) -> tuple[list[str], list[str]]:
    """Ours go through Parquet too: DuckDB's Arrow knows fewer types."""
    again = path.with_name("again.parquet")
    pq.write_table(found, again)
    return rows(f"read_parquet('{again}')"), rows(f"read_parquet('{path}')")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def json_rows(path: Path, found: pa.Table) -> tuple[list[str], list[str]]:
    """DuckDB gets our types: otherwise it takes texts for dates."""
    kinds = duckdb.sql("DESCRIBE found").fetchall()
    columns = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind, *_ in kinds)
    options = f"format='newline_delimited', maximum_object_size=100000000, columns={{{columns}}}"
    return rows("found", found=found), rows(f"read_json('{path}', {options})")


def csv_rows(path: Path, found: pa.Table) -> tuple[list[str], list[str]]:
    """DuckDB is told what RFC 4180 says, and that empty fields are no nulls."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    options = (
        f"all_varchar=true, header=true, delim={quoted(delimiter)}, "
        "quote='\"', escape='\"', max_line_size=10000000"
    )
    names = [
        name for name, *_ in duckdb.sql(f"DESCRIBE FROM read_csv('{path}', {options})").fetchall()
    ]
    return rows("found", found=found), rows(
        f"read_csv('{path}', {options}, force_not_null={names})"
    )


def arrow_rows(path: Path, found: pa.Table) -> tuple[list[str], list[str]]:
    is_file = path.read_bytes().startswith(b"ARROW1")
    theirs = (pl.read_ipc if is_file else pl.read_ipc_stream)(path.read_bytes()).to_arrow()
    return rows("found", found=found), rows("theirs", theirs=theirs)


def reads_it(path: Path) -> bool:
    """Whether DuckDB reads a file that we refuse, if it may guess."""
    try:
        duckdb.sql(f"FROM '{path}'").fetchall()
    except duckdb.Error:
        return False
    return True


@pytest.mark.filterwarnings("ignore:Feather V1")
@pytest.mark.parametrize(
    ("samples", "compared", "least"),
    [
        (parquet_samples, parquet_rows, 60),
        (arrow_samples, arrow_rows, 18),
        (jsonl_samples, json_rows, 30),
        (csv_samples, csv_rows, 33),
    ],
    ids=["parquet", "arrow", "jsonl", "csv"],
)
def test_rows_and_values_are_those_of_the_reference(
    tmp_path: Path,
    samples: Callable[[], Iterator[Sample]],
    compared: Callable[[Path, pa.Table], tuple[list[str], list[str]]],
    least: int,
) -> None:
    wrong, equal = {}, 0
    for sample in samples():
        found = outcome(sample, tmp_path)
        if isinstance(found, str):
            refused = not reads_it(tmp_path / sample.name)
            if sample.differs == SAME or refused != (sample.differs == REFUSED):
                wrong[sample.what] = found, sample.differs
            continue
        try:
            our_rows, their_rows = compared(tmp_path / sample.name, found)
            read = True
        except (duckdb.Error, pl.exceptions.PolarsError) as error:
            our_rows, their_rows = [], [str(error)]
            read = False
        equal += our_rows == their_rows
        if (our_rows == their_rows, read) != (sample.differs == SAME, sample.differs != REFUSED):
            wrong[sample.what] = our_rows[:3], their_rows[:3]

    assert wrong == {}
    assert equal >= least


@pytest.mark.filterwarnings("ignore:Feather V1")
def test_the_page_of_formats_is_up_to_date() -> None:
    assert (ROOT / "docs" / "formats.md").read_text() == page(), (
        "run: python scripts/formats > docs/formats.md"
    )


def test_a_column_that_nobody_needs_may_be_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(encrypted(plaintext_footer=True))

    assert rows_of(plan([path], text_columns=(), columns=("n",)))["n"].to_pylist() == INTS
    with pytest.raises(InputError, match="it is encrypted"):  # and no process ends
        plan([path])
