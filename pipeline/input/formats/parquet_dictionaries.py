"""Dictionaries of Parquet that pyarrow refuses as a whole: read as the strings that they are.

Where the Arrow schema in the footer gives a dictionary indices of 8, 16 or 64 bits, as pandas does,
pyarrow encodes its strings anew, and one that is not UTF-8 is an error of them all. Without that
schema the column is one of plain strings, which are not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.directory import OpenedFile

_SCHEMA_KEY, _NO_KEY = b"ARROW:schema", b"ARROW-schema"
_TAIL_BYTES = 8  # the length of the footer, and the magic number


def dictionaries(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """Those of the columns that are dictionaries."""
    return [name for name in columns if pa.types.is_dictionary(schema.field(name).type)]


def read_strings(file: OpenedFile, row_group: int, columns: Sequence[str]) -> pa.Table:
    """Columns of a row group as plain strings, with any bytes."""
    source = pa.PythonFile(_WithoutArrowSchema(file), mode="r")
    return pq.ParquetFile(source, pre_buffer=False).read_row_group(
        row_group, columns=columns, use_threads=False
    )


class _WithoutArrowSchema:
    """A Parquet file in whose footer nobody finds an Arrow schema."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        tail = file.seek(0, os.SEEK_END) - _TAIL_BYTES
        file.seek(tail)
        self._footer = tail - int.from_bytes(file.read(4), "little")

    def read(self, size: int = -1) -> bytes:
        before = max(0, self._footer - self._file.tell())
        data = self._file.read(size)
        return data[:before] + data[before:].replace(_SCHEMA_KEY, _NO_KEY)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
