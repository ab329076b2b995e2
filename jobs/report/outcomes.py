"""Rows without a result: the first reasons, and where such rows are."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from jobs.pages.words import numbers_open, shortened
from pipeline.errors import StorageError
from pipeline.output.output import Output, quarantine_name

_FILES, _REASONS, _CHARS = 20, 12, 240
_COLUMNS = ("bei_input", "bei_row", "bei_error")


def reasons(output: Output, parts: pl.DataFrame) -> dict[str, Any]:
    """The reasons of the rows in quarantine, most frequent first; numbers in them are left open.

    Args:
        output: of a job.
        parts: see `jobs.report.parts.Parts`.
    """
    failed = parts.filter(pl.col("failed") > 0)["part"].to_list()
    tables = [table for part in failed[:_FILES] if (table := _read(output, part)) is not None]
    found: dict[str, dict[str, Any]] = {}
    for file, row, error in pl.concat(tables).iter_rows() if tables else ():
        text = shortened(" ".join(str(error).split()), _CHARS)
        entry = found.setdefault(
            numbers_open(text), {"reason": text, "rows": 0, "file": file, "row": row}
        )
        entry["rows"] += 1
    ordered = sorted(found.values(), key=lambda entry: -entry["rows"])
    return {
        "parts": len(failed),
        "read": len(tables),
        "reasons": ordered[:_REASONS],
        "more": max(0, len(ordered) - _REASONS),
    }


def _read(output: Output, part: str) -> pl.DataFrame | None:
    import pyarrow.parquet as pq

    try:
        with (
            output.directory.open(quarantine_name(part)) as file,
            pq.ParquetFile(file, pre_buffer=False) as parquet,
        ):
            table = parquet.read(list(_COLUMNS), use_threads=False)
    except (StorageError, pa.ArrowException, OSError):
        return None
    frame = pl.from_arrow(table.cast(pa.schema([(n, pa.string()) for n in _COLUMNS])))
    assert isinstance(frame, pl.DataFrame)
    return frame.select(_COLUMNS)
