"""The rows of a repaired shard that its part before the repair already holds.

`retry` computes the quarantined rows of a part again. The others are taken from that part, as of a
piece; it is there until the repair is finished.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.output.open_shards import ROW_FIELD, Piece
from pipeline.output.output import Output
from pipeline.output.part_file import read_info, read_rows
from pipeline.output.plan import Plan
from pipeline.output.quarantine import row_errors
from pipeline.output.row_ranges import ranges_of
from pipeline.output.run import Run
from pipeline.shards import Shard, shard_id
from pipeline.spec import NUMERICS_VERSION, schema_hash

logger = logging.getLogger(__name__)


def repaired_shards(plan: Plan, indexes: Sequence[int]) -> list[int]:
    """Which of the shards at `indexes` repair an earlier part."""
    if "repair" not in plan.table.column_names:
        return []
    repairs = plan.table["repair"].to_numpy()
    return [index for index in indexes if repairs[index]]


def good_rows(output: Output, run: Run, shard: Shard) -> Piece | None:
    """The rows of the part before the repair that were not quarantined; None without that part."""
    cut = replace(shard.cut, repair=shard.cut.repair - 1)
    before = shard_id(run.spec.space, schema_hash(run.kept), shard.file, cut)
    part = replace(shard, cut=cut, id=before).part
    try:
        values = read_info(output.directory, part).values
        good = np.ones(shard.rows, dtype=np.bool_)
        # Not by its quarantine, which an attempt that failed other rows may have written.
        good[row_errors(output, part).is_valid().to_numpy()] = False
        fits = values["numerics_version"] == str(NUMERICS_VERSION)
        rows = np.flatnonzero(good)
        return Piece(part, rows, values["precision"], 0.0, reused=rows) if fits else None
    except (StorageError, pa.ArrowException, KeyError, IndexError, OSError) as error:
        logger.info("%s is computed as a whole: %s", shard, error)
        return None


def read_good_rows(output: Output, run: Run, piece: Piece) -> pa.Table:
    """The rows of a part that `piece` names, with ROW_FIELD.

    Raises:
        StorageError: it cannot be read.
        pyarrow.ArrowException: it is damaged.
    """
    data = output.directory.read(piece.name)
    table = read_rows(piece.name, data)
    table = run.form.to_held(table, table.schema.metadata).replace_schema_metadata(None)
    # By slices, because pyarrow cannot take rows of every type that may be kept.
    slices = [table.slice(first, count) for first, count in ranges_of(piece.rows)]
    rows = pa.concat_tables(slices) if slices else table.slice(0, 0)
    return rows.append_column(ROW_FIELD, pa.array(piece.rows))
