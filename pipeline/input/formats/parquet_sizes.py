"""How large the rows of a Parquet file are in memory, by its footer and a few of its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.input.formats.base import content_errors
from pipeline.input.formats.sizes import SizeCounter, Sizes
from pipeline.store.directory import OpenedFile

# Bytes of a value in memory; of other types, those in the file count.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
# What encodings hide: a value that occurs again, or begins as the one before, takes no room.
_HIDING = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"})
# Statistics with longer values, or with ones that a writer may have cut, say nothing of the others.
_SHORT_VALUE = 1024
_CUT_LENGTHS = frozenset({64, 256})
# Columns with less than this in any row group hide nothing that matters.
_HIDDEN_MAX_BYTES = 64 << 20
# Row groups of which some rows are read where an encoding may hide something.
_SAMPLED_GROUPS, _SAMPLED_ROWS, _SAMPLE_BUFFER = 4, 64, 64 << 10
# Where rows take so many times what the file has for them, something is hidden.
_HIDDEN = 1.25


def parquet_sizes(file: OpenedFile, parquet: Any, columns: Collection[str]) -> Sizes:
    """The sizes of the row groups of a file; estimates where an encoding hides much.

    Args:
        file: to read a few rows from.
        parquet: the same file, as pyarrow opened it.
        columns: whose sizes are wanted; missing ones have none.
    """
    metadata, leaves = parquet.metadata, leaf_columns(parquet.schema_arrow, columns)
    stored: dict[str, list[int]] = {name: [] for name in leaves}
    hiding = set[str]()
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for name, numbers in leaves.items():
            chunks = [group.column(number) for number in numbers]
            size = sum(map(_stored, chunks))
            stored[name].append(size)
            if size * group.num_rows > _HIDDEN_MAX_BYTES and any(map(_may_hide, chunks)):
                hiding.add(name)
    rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    # In memory, too, a dictionary has each value once.
    hiding -= {f.name for f in parquet.schema_arrow if pa.types.is_dictionary(f.type)}
    per_row = {name: _sampled(file, parquet, name, rows, stored[name]) for name in sorted(hiding)}
    counter = SizeCounter(list(leaves))
    for index, count in enumerate(rows):
        least = {name: stored[name][index] for name in leaves}
        sizes = {name: max(size, count * per_row.get(name, 0)) for name, size in least.items()}
        counter.add(count, sizes, exact=sizes == least, apart=True)
    return counter.sizes()


def _stored(chunk: Any) -> int:
    """Bytes of the values of a column chunk, if no encoding hides any."""
    width = _WIDTHS.get(chunk.physical_type)
    return int(chunk.num_values * width if width else chunk.total_uncompressed_size)


def _may_hide(chunk: Any) -> bool:
    """Whether long values may be in the file once and in memory many times."""
    if chunk.physical_type in _WIDTHS or not _HIDING.intersection(chunk.encodings):
        return False
    statistics = chunk.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    lengths = {len(statistics.min), len(statistics.max)}
    return max(lengths) >= _SHORT_VALUE or bool(lengths & _CUT_LENGTHS)


def _sampled(file: OpenedFile, parquet: Any, name: str, rows: list[int], stored: list[int]) -> int:
    """Bytes of a row of a column, the most of a few row groups; 0 where nothing is hidden."""
    source = pa.PythonFile(file, mode="r")
    reader = pq.ParquetFile(
        source,
        metadata=parquet.metadata,
        buffer_size=_SAMPLE_BUFFER,
        pre_buffer=False,
        page_checksum_verification=True,
    )
    full = np.flatnonzero(rows)
    chosen = full[np.linspace(0, len(full) - 1, min(_SAMPLED_GROUPS, len(full))).astype(np.int64)]
    found = 0
    for group in chosen.tolist():
        with content_errors(f"row group {group}"):
            batches = reader.iter_batches(
                _SAMPLED_ROWS, row_groups=[group], columns=[name], use_threads=False
            )
            batch = next(batches)
        per_row = batch.nbytes // batch.num_rows
        if per_row * rows[group] > _HIDDEN * stored[group]:
            found = max(found, per_row)
    return found


def leaf_columns(schema: pa.Schema, columns: Collection[str]) -> dict[str, list[int]]:
    """Column → the numbers of the leaf columns that it is stored in."""
    numbers, leaves = iter(range(1 << 62)), defaultdict[str, list[int]](list)
    for field in schema:
        of_field = [next(numbers) for _ in _primitive(field.type)]
        if field.name in columns:
            leaves[field.name] += of_field
    return dict(leaves)


def _primitive(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The types of the leaf columns that a column of a type is stored in."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _primitive(kind.storage_type)
    elif pa.types.is_nested(kind):
        for index in range(kind.num_fields):
            yield from _primitive(kind.field(index).type)
    else:
        yield kind
