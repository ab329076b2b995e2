"""The texts of a few rows, read from the inputs again, where these are as they were planned."""

from __future__ import annotations

import time
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from jobs.pages.words import beginning
from pipeline.errors import BeiJobsError, InputError
from pipeline.output.plan import Plan
from pipeline.output.run import Run

_SECONDS = 10.0
_READ_ROWS = 1024


def texts_of(
    run: Run, plan: Plan, parts: pl.DataFrame, wanted: Sequence[tuple[int, int]], chars: int
) -> tuple[dict[tuple[int, int], str], str]:
    """(Part, row) → the start of its text, and why some are missing.

    Args:
        run: of the parts.
        plan: of the run.
        parts: see `jobs.report.parts.Parts`.
        wanted: index of a part and number of a row in it.
        chars: of each text, at most.
    """
    name = run.spec.text_column
    if name not in run.columns.names or not _is_text(run.columns.field(name).type):
        return {}, "the job reads no single column of texts"
    by_part: dict[int, list[int]] = {}
    for part, row in wanted:
        by_part.setdefault(part, []).append(row)
    found: dict[tuple[int, int], str] = {}
    begun, problem = time.monotonic(), ""
    for part, rows in by_part.items():
        if time.monotonic() - begun > _SECONDS:
            return found, "reading them took too long"
        try:
            texts = _read(run, plan, parts["index"][part], rows, chars)
        except InputError as error:  # of this file
            problem = error.message
            continue
        except BeiJobsError as error:
            return found, error.message
        found |= {(part, row): text for row, text in texts.items()}
    return found, problem


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _read(run: Run, plan: Plan, shard: int, rows: Sequence[int], chars: int) -> dict[int, str]:
    from pipeline.input.reading import read
    from pipeline.input.where import where_columns

    planned = plan.shard(shard)
    names = {run.spec.text_column, *where_columns(planned.file.where)}
    columns = pa.schema([field for field in run.columns if field.name in names])
    found: dict[int, str] = {}
    first = 0
    for _, batch in read(planned.file, [planned.cut], columns, _READ_ROWS):
        column = batch.column(run.spec.text_column)
        for row in rows:
            if first <= row < first + batch.num_rows:
                found[row] = beginning(" ".join(_plain(column[row - first]).split()), chars)
        first += batch.num_rows
        if first > max(rows):
            break
    return found


def _plain(value: pa.Scalar) -> str:
    try:
        return str(value.as_py() or "")
    except UnicodeDecodeError:
        return "(not valid UTF-8)"
