"""The footer of a Parquet file, and what it says about encryption, which pyarrow does not tell."""

from __future__ import annotations

import os
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
ENCRYPTED = "it is encrypted, which is not supported: write it again without encryption"


def read_footer(file: OpenedFile) -> tuple[Any, bool]:
    """The metadata of a file, and whether some of its columns are encrypted.

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
        raise ContentError(ENCRYPTED)
    metadata = pq.read_metadata(pa.BufferReader(tail))
    return metadata, length == metadata.serialized_size + _SIGNATURE_BYTES


def _tail(file: OpenedFile, size: int, length: int) -> bytes:
    file.seek(max(0, size - length))
    return file.read(min(size, length))
