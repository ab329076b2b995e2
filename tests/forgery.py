"""Parts that are not as a worker wrote them, though their checksums hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.output.part_file import encode_part, parse_info, read_rows


def rewrite_part(
    path: Path, change: Callable[[pa.Table], pa.Table] = lambda table: table, **values: object
) -> None:
    """Write an Arrow part anew as a worker would, but with something changed.

    Args:
        path: of the part.
        change: of its rows.
        values: what its metadata says instead.
    """
    data = path.read_bytes()
    info, table = parse_info(path.name, data), read_rows(path.name, data)
    path.write_bytes(encode_part(change(table), {**info.values, **values}))


def with_values(table: pa.Table, column: str, values: Sequence[object]) -> pa.Table:
    """The table with other values in a column, of the same type."""
    at = table.column_names.index(column)
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(values, field.type))
