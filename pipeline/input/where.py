"""`--where`: a SQL expression over the columns of one row, which selects the rows of a job.

polars evaluates it. It may only use what depends on its row alone and never changes, because a part
is named by the expression and holds the same rows for ever.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.input.formats.base import ContentError

if TYPE_CHECKING:
    import polars as pl

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
    |(?P<string>\w?'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")*"|`[^`]*`)
    |(?P<word>[^\W\d]\w*)
    |(?P<number>\d[\w.]*|\.\d\w*)
    |(?P<operator>[<>=!~|:*/^@\#%&+?-]+|[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)
# Written in upper case; the words that stand before a parenthesis without being a function.
_KEYWORDS = frozenset({
    "ALL", "AND", "ANY", "AS", "BETWEEN", "CASE", "CAST", "ELSE", "END", "FALSE", "ILIKE", "IN",
    "IS", "LIKE", "NOT", "NULL", "OR", "THEN", "TRUE", "TRY_CAST", "WHEN",
})  # fmt: skip
# Of one row, and the same at every time.
_FUNCTIONS = frozenset({
    "abs", "array_contains", "array_length", "array_to_string", "bit_length", "ceil", "char_length",
    "coalesce", "concat", "concat_ws", "date", "date_part", "ends_with", "exp", "extract", "floor",
    "greatest", "if", "ifnull", "initcap", "least", "left", "length", "ln", "log", "log10", "lower",
    "ltrim", "mod", "nullif", "octet_length", "position", "pow", "power", "regexp_like", "replace",
    "reverse", "right", "round", "rtrim", "sign", "sqrt", "starts_with", "strftime", "strpos",
    "strptime", "substr", "substring", "timestamp", "trim", "upper",
})  # fmt: skip
_CHANGING = frozenset({
    "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP",
})  # fmt: skip
_EXAMPLE = "give a condition on columns, such as \"lang = 'en' AND published >= '2026-01-01'\""


def canonical_where(where: str) -> str:
    """The expression without comments, its words one space apart, its keywords in capitals.

    Raises:
        UsageError: it cannot be parsed, names no column, or uses more than its row.
    """
    tokens = [match for match in _TOKEN.finditer(where) if match.lastgroup != "comment"]
    words = [
        match.group().upper() if match.group().upper() in _KEYWORDS else match.group()
        for match in tokens
    ]
    for index, match in enumerate(tokens):
        if match.lastgroup == "word":
            called = words[index + 1 : index + 2] == ["("]
            _check_word(words[index], called=called)
    text = " ".join(words)
    if not text or not where_columns(text):
        raise UsageError(f"--where {text!r} names no column", hint=_EXAMPLE)
    return text


def _check_word(word: str, *, called: bool) -> None:
    """Refuse what depends on other rows, on the time, or on other tables."""
    if word.upper() in _CHANGING:
        raise UsageError(
            f"--where uses {word}, which is another value in each run",
            hint="put the date itself, such as '2026-01-01'",
        )
    if called and word not in _KEYWORDS and word.lower() not in _FUNCTIONS:
        raise UsageError(
            f"--where uses {word}(), which is not a function of one row",
            hint=f"give one of {', '.join(sorted(_FUNCTIONS))}",
        )
    if word.upper() in ("SELECT", "OVER"):
        raise UsageError(f"--where uses {word}, and so more than one row", hint=_EXAMPLE)


@cache
def where_columns(where: str) -> tuple[str, ...]:
    """The columns that an expression names, each once; of "", none.

    Raises:
        UsageError: it cannot be parsed.
    """
    if not where:
        return ()
    import polars as pl

    try:
        return tuple(dict.fromkeys(pl.sql_expr(where).meta.root_names()))
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"--where {where!r}: {_first_line(error)}", hint=_EXAMPLE) from error


def check_where(where: str, schema: pa.Schema) -> None:
    """Check that an expression is a condition over columns of these types.

    Raises:
        UsageError: it is not boolean, or compares what cannot be compared.
    """
    import polars as pl

    try:
        nulls = pa.record_batch([pa.nulls(1, field.type) for field in schema], schema=schema)
        kind = _evaluated(where, nulls).dtype
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        types = ", ".join(f"{field.name} is {field.type}" for field in schema)
        raise UsageError(
            f"--where {where!r}: {_first_line(error)} ({types})", hint=_EXAMPLE
        ) from error
    if kind != pl.Boolean:
        raise UsageError(f"--where {where!r} is {kind}, and neither true nor false", hint=_EXAMPLE)


def selected_by(where: str, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """[rows] Which rows an expression selects; null selects none.

    Rows in which a column of the expression is not UTF-8 are selected: they are errors.

    Raises:
        ContentError: it cannot be evaluated on a value; the message names --where.
    """
    import polars as pl

    read, invalid = _with_nulls(rows.select(where_columns(where)))
    try:
        mask = _evaluated(where, read)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowInvalid) as error:
        raise ContentError(f"--where {where!r}: {_first_line(error)}") from error
    return np.asarray(mask.fill_null(False).to_numpy(), dtype=np.bool_) | invalid


def _with_nulls(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_]]:
    """The rows with null for strings that are not UTF-8, which nobody checked; and [rows] where."""
    invalid = np.zeros(rows.num_rows, dtype=np.bool_)
    try:
        rows.validate(full=True)
        return rows, invalid
    except pa.ArrowInvalid:
        columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in rows]
    for index, column in enumerate(columns):
        there = [row if _is_utf8(value) else None for row, value in enumerate(column)]
        columns[index] = column.take(pa.array(there, pa.int64()))
        invalid |= np.array([row is None for row in there], dtype=np.bool_)
    return pa.RecordBatch.from_arrays(columns, rows.schema.names), invalid


def _is_utf8(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _evaluated(where: str, rows: pa.RecordBatch) -> pl.Series:
    """The value of an expression for each row.

    As a query, not as an expression alone: only that compares dates with strings.
    """
    import polars as pl

    frame = pl.from_arrow(pa.table([*map(_with_lists, rows.columns)], rows.schema.names))
    with pl.SQLContext(rows=frame) as context:
        return context.execute(f"SELECT ({where}) AS selected FROM rows", eager=True).to_series()


def _with_lists(array: pa.Array) -> pa.Array:
    """The lists of a list view, which polars does not read, and pyarrow's cast gets wrong."""
    if not (pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type)):
        return array
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return pa.LargeListArray.from_arrays(pa.array(offsets), array.flatten(), mask=array.is_null())


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
