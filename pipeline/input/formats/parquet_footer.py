"""The footer of a Parquet file, and what it says about encryption, which pyarrow does not tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.input.formats.base import ContentError
from pipeline.store.directory import OpenedFile

# As much as pyarrow reads at first.
_TAIL_BYTES = 64 << 10
_END_BYTES = 8  # length of the metadata, and magic
_ENCRYPTED_MAGIC = b"PARE"
# A plain footer of a file with encrypted columns is signed: nonce and tag follow the metadata.
_SIGNATURE_BYTES = 12 + 16
_ENCRYPTED = "it is encrypted, which is not supported: write it again without encryption"


def read_footer(file: OpenedFile) -> tuple[Any, bool]:
    """The metadata of a file, and whether it is signed: some of the columns may be encrypted then.

    Of an encrypted column, no metadata may be asked for: pyarrow 26 ends the process.

    Raises:
        ContentError: all of it is encrypted.
        ArrowException: it is no Parquet file.
    """
    size = file.seek(0, os.SEEK_END)
    tail = _tail(file, size, _TAIL_BYTES)
    length = int.from_bytes(tail[-_END_BYTES:][:4], "little")
    if length + _END_BYTES > len(tail):
        tail = _tail(file, size, length + _END_BYTES)
    if tail.endswith(_ENCRYPTED_MAGIC):
        raise ContentError(_ENCRYPTED)
    metadata = pq.read_metadata(pa.BufferReader(tail))
    return metadata, length == metadata.serialized_size + _SIGNATURE_BYTES


def check_columns(parquet: Any, is_signed: bool, columns: Sequence[str] | None) -> None:
    """Refuse an open file with columns that cannot be read, before anybody counts on them.

    Args:
        parquet: a `ParquetFile`.
        is_signed: as `read_footer` says.
        columns: that are needed; None for all.

    Raises:
        ContentError: one is encrypted, or compressed with LZO.
    """
    metadata = parquet.metadata
    if not metadata.num_rows:
        return
    if is_signed:
        try:
            next(parquet.iter_batches(1, columns=columns, use_threads=False))
        except OSError as error:
            raise ContentError(_ENCRYPTED) from error
    for number in range(metadata.num_columns):
        path = metadata.schema.column(number).path
        needed = columns is None or path in columns or path.split(".")[0] in columns
        if needed and metadata.row_group(0).column(number).compression == "LZO":
            raise ContentError(
                "it is compressed with LZO, which is not supported: write it again with zstd"
            )


def _tail(file: OpenedFile, size: int, length: int) -> bytes:
    file.seek(max(0, size - length))
    return file.read(min(size, length))
