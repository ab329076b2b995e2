"""Samples as a job plans and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from input_plans import plan_of

from pipeline.errors import BeiJobsError
from pipeline.input.cutting import PlannedInputs
from pipeline.input.discovery import discover
from pipeline.input.reading import inspect, read
from samples.sample import Sample

SHARD = 3  # rows


def plan(inputs: Sequence[object], **options: Any) -> PlannedInputs:
    """The plan of a job over files or folders."""
    return plan_of(inputs, rows_per_shard=SHARD, **options)


def rows(planned: PlannedInputs) -> pa.Table:
    """All rows of a plan, read in batches that end before a shard does."""
    batches = [
        batch
        for file, cuts in planned.files
        for _, batch in read(file, cuts, planned.schema, SHARD - 1)
    ]
    table = pa.Table.from_batches(batches, planned.schema)
    assert table.num_rows == planned.rows
    return table


def outcome(sample: Sample, folder: Path) -> pa.Table | str:
    """The rows of a sample with every column kept, or the words with which it is refused."""
    path, refused = folder / sample.name, "refused"
    path.write_bytes(sample.data)
    try:
        (listed,) = discover([str(path)])
        names = tuple(dict.fromkeys(inspect(listed, None, SHARD).columns))
        planned = plan([path], columns=[name for name in names if name != "text"])
        refused = "refused when its rows are read"
        return rows(planned).select(names)
    except BeiJobsError as error:
        return f"{refused}: {error}".replace(f"{folder}/", "")
