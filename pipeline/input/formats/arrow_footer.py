"""What the footer of an Arrow file says and pyarrow does not hand out: the bytes of its batches.

The layouts are File.fbs and Message.fbs of https://github.com/apache/arrow/tree/main/format, as
FlatBuffers: a table begins with the distance to a list of where its fields are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from pipeline.packing import Int64Array
from pipeline.store.directory import OpenedFile

_TAIL = struct.Struct("<i6s")  # the size of the footer, and ARROW1
_CONTINUED = b"\xff\xff\xff\xff"
# Numbers of fields: of a Footer, of a Message, and of a RecordBatch.
_DICTIONARIES, _RECORD_BATCHES = 2, 3
_HEADER = 2
_COMPRESSION = 3
# More than the description of a batch of many thousand columns.
_HEAD_MAX_BYTES = 16 << 20
_BLOCK = np.dtype([("offset", "<i8"), ("metadata", "<i4"), ("", "<i4"), ("body", "<i8")])


@dataclass(frozen=True, slots=True)
class Stored:
    """What the batches of a file are in it: with all columns, and compressed if they are."""

    batches: Int64Array  # bytes of each record batch
    dictionaries: int  # bytes of all dictionaries
    compressed: bool  # whether the first record batch is


def read_stored(file: OpenedFile) -> Stored:
    """Read the footer, and the head of the first record batch.

    Raises:
        ValueError: they are not what the format says.
    """
    try:
        return _read_stored(file)
    except struct.error as error:
        raise ValueError(f"its footer is damaged: {error}") from error


def _read_stored(file: OpenedFile) -> Stored:
    file.seek(-_TAIL.size, 2)
    size, _ = _TAIL.unpack(file.read(_TAIL.size))
    file.seek(-_TAIL.size - size, 2)
    footer = file.read(size)
    batches, dictionaries = _blocks(footer, _RECORD_BATCHES), _blocks(footer, _DICTIONARIES)
    compressed = bool(len(batches)) and _is_compressed(file, batches[0])
    return Stored(batches["body"].astype(np.int64), int(dictionaries["body"].sum()), compressed)


def _blocks(footer: bytes, number: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    field = _field(footer, _target(footer, 0), number)
    if field is None:
        return np.zeros(0, _BLOCK)
    listed = _target(footer, field)
    (count,) = struct.unpack_from("<I", footer, listed)
    return np.frombuffer(footer, _BLOCK, count, listed + 4)


def _is_compressed(file: OpenedFile, block: np.void) -> bool:
    file.seek(int(block["offset"]))
    message = file.read(min(max(0, int(block["metadata"])), _HEAD_MAX_BYTES))
    message = message[8 if message.startswith(_CONTINUED) else 4 :]
    header = _field(message, _target(message, 0), _HEADER)
    return (
        header is not None and _field(message, _target(message, header), _COMPRESSION) is not None
    )


def _target(data: bytes, position: int) -> int:
    """Where the value is that the four bytes at a position refer to."""
    return position + int(struct.unpack_from("<I", data, position)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table is; None if the table lacks it."""
    entries = table - int(struct.unpack_from("<i", data, table)[0])
    size, entry = struct.unpack_from("<H", data, entries)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", data, entries + entry)[0] if entry < size else 0
    return table + int(offset) if offset else None
