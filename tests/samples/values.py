"""Values at their extremes, and frames of other libraries."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import duckdb
import pandas as pd
import polars as pl

from samples.sample import written

TEXTS = ["one", "zwei ü", "", "three\nlines", "tab\t", None, "x" * 300]
INTS = [0, 1, -1, 2**63 - 1, -(2**63), None, 42]
FLOATS = [1.5, None, float("nan"), float("inf"), -0.0, 5e-324, 1.7976931348623157e308]
TIMES = [
    datetime(1, 1, 1), datetime(1582, 10, 10), datetime(1677, 9, 22), datetime(1970, 1, 1), None,
    datetime(2262, 4, 12), datetime(9999, 12, 31, 23, 59, 59, 999999),
]  # fmt: skip
NEAR = [datetime(1700, 1, 1), datetime(2024, 3, 31, 1, 30), None, datetime(1970, 1, 1, 0, 0, 1)]
DATES = [date(1, 1, 1), date(9999, 12, 31), None, date(1582, 10, 10)]
CODES = ["a", "b", None, "a", "b", "a", "b"]


def by_pandas() -> pd.DataFrame:
    """What pandas has beside others: an index, nullable types, periods, intervals."""
    return pd.DataFrame({
        "text": TEXTS, "f": FLOATS, "c": pd.Categorical(CODES),
        "t": pd.to_datetime(["2024-01-01"] * 7).tz_localize("Europe/Berlin"),
        "i": pd.array([1, None] * 3 + [2], dtype="Int64"), "d": pd.to_timedelta([1] * 7, unit="h"),
        "b": pd.array([True, None] * 3 + [False], dtype="boolean"),
        "s": pd.array(TEXTS, dtype="string"),
        "p": pd.period_range("2024-01", periods=7, freq="M"), "r": pd.interval_range(0, 7),
    })  # fmt: skip


def by_polars() -> pl.DataFrame:
    """A column of each type of polars."""
    return pl.DataFrame({
        "text": TEXTS, "c": pl.Series(CODES, dtype=pl.Categorical),
        "e": pl.Series(CODES, dtype=pl.Enum(["a", "b"])), "l": [[1], [], None, [2], [3], [4], [5]],
        "s": [{"x": 1}] * 7, "d": [DATES[0]] * 7, "t": TIMES, "g": [timedelta(1)] * 7,
        "z": [datetime(2024, 1, 1, tzinfo=UTC)] * 7, "h": [time(12)] * 7,
        "n": pl.Series([Decimal("1.5")] * 7),
        "a": pl.Series([[1, 2]] * 7, dtype=pl.Array(pl.Int8, 2)),
        "y": [b"\xff"] * 7, "b": [True, None] * 3 + [False], "0": [None] * 7,
    })  # fmt: skip


def by_duckdb(columns: str, options: str = "FORMAT parquet") -> bytes:
    """A file of one row with a text."""
    query = f"COPY (SELECT 'x' AS text, {columns}) TO 'PATH' ({options})"
    return written("", lambda path: duckdb.sql(query.replace("PATH", path)))
