"""What the tests of `bei-jobs export` share: a DEST of each format, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import lance
import pyarrow as pa
import pyarrow.parquet as pq

#: A DEST of each format; a name that ends in a slash is a directory of Parquet files.
DESTS = ("out.parquet", "out/", "out.npy", "out.lance", "out.delta")

Rows = list[dict[str, Any]]


def read(dest: object, **store: Any) -> Rows:
    """The rows at a DEST, sorted by id where the format has no order."""
    place = str(dest)
    if place.endswith(".lance"):
        return lance.dataset(place, storage_options=store or None).to_table().to_pylist()
    if place.endswith(".delta"):
        table = deltalake.DeltaTable(place, storage_options=store or None)
        rows = pa.table(table.to_pyarrow_table()).to_pylist()
        return sorted(rows, key=lambda row: int(row["id"].partition("-")[2]))
    if place.endswith(".parquet"):
        return pq.read_table(place).to_pylist()
    files = sorted(Path(place).iterdir())
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def harm(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
