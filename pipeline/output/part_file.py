"""Columns → one self-describing part, complete in memory before its create-only commit.

A part is an Arrow IPC or a Parquet file (`pipeline.output.part_format`). Its metadata describes it,
counts included, in keys named `bei.<key>`. The shard's output is held until its last row is
computed, so that any reader finds everything in one place and a commit is one write.
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
from pipeline.input.compact import compact
from pipeline.output.part_format import FORMATS, format_of
from pipeline.shards import part_format
from pipeline.spec import OutputFormat
from pipeline.store.directory import Directory
from pipeline.store.uris import redact

_PREFIX = "bei."
_DIGEST_CHARS = 64  # hex digits of a SHA-256
_CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """The metadata of a part. `values` holds every `bei.` key, without the prefix."""

    name: str
    schema: pa.Schema
    values: Mapping[str, str]

    def count(self, key: str) -> int:
        """An integer value: rows, tokens, truncated or failed."""
        return int(self.values[key])


def encode_part(
    table: pa.Table, values: Mapping[str, object], output_format: OutputFormat = "arrow"
) -> memoryview:
    """Serialise a shard's output with its provenance and a checksum over the whole file.

    The checksum is the SHA-256 of the file with the checksum's own digits set to zeros. So it
    covers data and metadata, and checking it needs no Arrow reader.

    Args:
        table: the output rows in input order.
        values: provenance; strings are written unchanged, other values as JSON.
        output_format: of the file.
    """
    placeholder = secrets.token_hex(_DIGEST_CHARS // 2)
    metadata = {_PREFIX + key: _text(value) for key, value in values.items()}
    metadata[_PREFIX + _CHECKSUM] = placeholder
    batches = map(compact, table.to_batches())
    table = pa.Table.from_batches(batches, table.schema)
    form = FORMATS[output_format]
    data = memoryview(form.write(table, metadata)).cast("B")
    # Not in all of the file: a search holds Python's lock, and the device would wait for it.
    positions = [
        span.start + position
        for span in form.metadata_in(data)
        for position in _positions(data[span], placeholder)
    ]
    _fill(data, positions, b"0" * _DIGEST_CHARS)
    _fill(data, positions, hashlib.sha256(data).hexdigest().encode())
    return data


def checksum_holds(data: bytes, info: PartInfo) -> bool:
    """Whether the bytes of a part are the committed ones."""
    claimed = info.values.get(_CHECKSUM, "")
    if not re.fullmatch(r"[0-9a-f]{64}", claimed):
        return False
    view, hashed, start = memoryview(data), hashlib.sha256(), 0
    for position in _positions(view, claimed):
        hashed.update(view[start:position])
        hashed.update(b"0" * _DIGEST_CHARS)
        start = position + _DIGEST_CHARS
    hashed.update(view[start:])
    return hashed.hexdigest() == claimed


def read_info(directory: Directory, name: str) -> PartInfo:
    """The metadata of a part, from the end of the file alone: a few small range reads.

    Raises:
        StorageError: the object is not a readable file of its format.
    """
    with directory.open(name) as file:
        return _info(name, file, f"run `bei-jobs verify {redact(directory.uri)}`")


def parse_info(name: str, data: bytes) -> PartInfo:
    """The metadata of a part, given its bytes.

    Raises:
        StorageError: they are not a readable file of its format.
    """
    return _info(name, pa.BufferReader(data))


def read_rows(name: str, data: bytes) -> pa.Table:
    """The rows of a part, given its bytes.

    Raises:
        pa.ArrowException, OSError: they are damaged.
    """
    return format_of(name).read(pa.BufferReader(data))


def _info(name: str, file: object, hint: str = "") -> PartInfo:
    try:
        schema = format_of(name).schema(file)
    except (pa.ArrowException, OSError) as error:
        kind = part_format(name).capitalize()
        problem = " ".join(str(error).split())
        raise StorageError(f"{name} is not a readable {kind} file: {problem}", hint=hint) from error
    values = {
        key.decode().removeprefix(_PREFIX): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.startswith(_PREFIX.encode())
    }
    return PartInfo(name, schema.remove_metadata(), values)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _positions(data: memoryview, digits: str) -> list[int]:
    # Once in a Parquet file. An Arrow file has its schema in its first message and in its footer.
    return [match.start() for match in re.finditer(digits.encode(), data)]


def _fill(data: memoryview, positions: list[int], digits: bytes) -> None:
    for position in positions:
        data[position : position + len(digits)] = digits
