"""Row ranges of a file: how many rows each has, and which become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.input.byte_cuts import PART_MAX_BYTES
from pipeline.shards import Cut

DEFAULT_ROWS_PER_SHARD = 16_384


def default_rows_per_shard(bytes_per_row: int) -> int:
    """16,384 rows, or fewer if their output would exceed 256 MiB."""
    return max(1, min(DEFAULT_ROWS_PER_SHARD, PART_MAX_BYTES // max(1, bytes_per_row)))


def cut_file(rows: int, row_groups: Sequence[int] | None, rows_per_shard: int) -> list[Cut]:
    """Row ranges of at most `rows_per_shard` that cover every row exactly once, in order.

    Row groups that fit are kept whole, as many per cut as fit; a larger one is divided into equal
    cuts. Without row groups every cut but the last has `rows_per_shard` rows.
    """
    sizes: list[int] = []
    for group in [rows] if row_groups is None else row_groups:
        if sizes and sizes[-1] + group <= rows_per_shard:
            sizes[-1] += group
        elif row_groups is None:
            sizes += [min(rows_per_shard, group - i) for i in range(0, group, rows_per_shard)]
        else:
            sizes += _equal_parts(group, math.ceil(group / rows_per_shard))
    cuts, first = [], 0
    for size in sizes:
        cuts.append(Cut(first, size))
        first += size
    return cuts


def _equal_parts(rows: int, parts: int) -> list[int]:
    return [rows * (i + 1) // parts - rows * i // parts for i in range(parts)]


def merged_cuts(
    cuts: Sequence[Cut], selected: Sequence[int], rows_per_shard: int, sizes: Sequence[int] = ()
) -> list[Cut]:
    """Cuts that follow each other as one, while it has at most `rows_per_shard` selected rows.

    Every row of the file is in one of them; none if no row is selected.

    Args:
        cuts: of a whole file, in order.
        selected: how many rows of each are selected.
        rows_per_shard: as many or more than a cut has.
        sizes: bytes of each cut, whose selected rows are taken to have their share.
    """
    merged, total = list[Cut](), 0.0
    for index, (cut, rows) in enumerate(zip(cuts, selected, strict=True) if any(selected) else ()):
        size = sizes[index] * rows / cut.rows if sizes else 0.0
        fits = total + size <= PART_MAX_BYTES
        if merged and fits and merged[-1].rows + rows <= rows_per_shard:
            first, total = merged[-1], total + size
            merged[-1] = replace(first, rows=first.rows + rows, extent=cut.end - first.first_row)
        else:
            merged.append(replace(cut, rows=rows, extent=cut.rows))
            total = size
    return merged
