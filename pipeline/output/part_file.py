"""Columns → one self-describing Arrow part, complete in memory before its create-only commit.

A part is an Arrow IPC file. All that is known of it stands in the schema metadata, one
`bei.<key>` each, counts included: the shard's output is held until its last row is there, so
that any reader finds everything in one place and a commit is one write.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.store.directory import Directory

_PREFIX = "bei."
_DIGEST_CHARS = 64  # hex digits of a SHA-256
_CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part says of itself. `values` holds every `bei.` key, without the prefix."""

    name: str
    schema: pa.Schema
    values: Mapping[str, str]

    def count(self, key: str) -> int:
        """An integer value: rows, tokens, truncated or failed."""
        return int(self.values[key])


def encode_part(table: pa.Table, values: Mapping[str, object]) -> memoryview:
    """Serialise a shard's output with its provenance and a checksum over the whole file.

    The checksum is the SHA-256 of the file in which its own digits are zeros, so it covers
    data and metadata alike and needs no reader of the format.

    Args:
        table: the output rows in input order.
        values: provenance; strings are written as they are, the rest as JSON.
    """
    placeholder = secrets.token_hex(_DIGEST_CHARS // 2)
    metadata = {_PREFIX + key: _text(value) for key, value in values.items()}
    metadata[_PREFIX + _CHECKSUM] = placeholder
    table = table.replace_schema_metadata(metadata)
    # Not BytesIO: a view of one that outlives it ends Python 3.12 with a crash (cpython#111049).
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = memoryview(sink.getvalue()).cast("B")
    spots = _spots(data, placeholder)
    _fill(data, spots, b"0" * _DIGEST_CHARS)
    _fill(data, spots, hashlib.sha256(data).hexdigest().encode())
    return data


def checksum_holds(data: bytes, info: PartInfo) -> bool:
    """Whether the bytes of a part are those that were committed."""
    claimed = info.values.get(_CHECKSUM, "")
    if not re.fullmatch(r"[0-9a-f]{64}", claimed):
        return False
    blank = bytearray(data)
    _fill(memoryview(blank), _spots(data, claimed), b"0" * _DIGEST_CHARS)
    return hashlib.sha256(blank).hexdigest() == claimed


def read_info(directory: Directory, name: str) -> PartInfo:
    """What a part says of itself, from the end of the file alone: a few small range reads.

    Raises:
        StorageError: the object is no Arrow file of ours.
    """
    with directory.open(name) as file:
        return _info(name, file)


def parse_info(name: str, data: bytes) -> PartInfo:
    """What a part says of itself, given its bytes."""
    return _info(name, pa.BufferReader(data))


def _info(name: str, file: object) -> PartInfo:
    try:
        with pa.ipc.open_file(file) as reader:
            schema = reader.schema
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"{name} is not a readable Arrow file: {error}") from error
    values = {
        key.decode().removeprefix(_PREFIX): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.startswith(_PREFIX.encode())
    }
    return PartInfo(name, schema.remove_metadata(), values)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _spots(data: bytes | memoryview, digits: str) -> list[int]:
    # The schema stands twice in an Arrow file: in its first message and in its footer.
    return [match.start() for match in re.finditer(digits.encode(), data)]


def _fill(data: memoryview, spots: list[int], digits: bytes) -> None:
    for spot in spots:
        data[spot : spot + len(digits)] = digits
