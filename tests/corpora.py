"""Where the test data lie, and corpora made on the spot. Imports nothing of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens"
#: A BERT of 32 dimensions: loads in milliseconds, behaves like the real one.
TINY = str(GOLDENS / "bert_mean")


def texts(rows: int, seed: int = 0) -> list[str]:
    """Different texts of different lengths."""
    return [f"text {seed} of number {row} " + "goes on " * (row * 7 % 11) for row in range(rows)]


def write_parquet(
    path: Path, rows: int = 20, *, seed: int = 0, row_group: int = 10, **columns: Sequence[Any]
) -> Path:
    """A corpus with `id` and `text`; `columns` are added or put in their place."""
    table = {"id": [f"{seed}-{row}" for row in range(rows)], "text": texts(rows, seed)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**table, **columns}), path, row_group_size=row_group)
    return path


def parts(output: Path) -> list[str]:
    """The flat glob over a local output of either format."""
    return sorted(path.name for path in output.glob("*.*") if path.suffix in (".arrow", ".parquet"))


def damaged_in_the_middle(path: Path, row_group: int) -> bytes:
    """Flip bytes within the text column's data of one row group; returns the sound file."""
    sound = path.read_bytes()
    metadata = pq.ParquetFile(path).metadata
    names = metadata.schema.names
    column = metadata.row_group(row_group).column(names.index("text"))
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(sound)
    for at in range(start, start + column.total_compressed_size):
        data[at] ^= 0xFF
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return sound
