"""The row key: a hash of exactly what decides a row's values within its space.

    one text column         BLAKE2b-128 of the text's UTF-8 bytes
    any other columns       BLAKE2b-128 of, column by column, the length of the text as 8 bytes
                            (little-endian) and its bytes; of a list, its length and then its texts

Equal texts have equal keys, in every output and every version: a key says which rows may share one
result, and tells a vector database which rows changed. It is a cryptographic hash, so that nobody
can write a text that takes another one's vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

KEY_BYTES = 16
KEY_FIELD = pa.field("row_key", pa.binary(KEY_BYTES))


def row_keys(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.FixedSizeBinaryArray:
    """The key of each row, [R]; null where a text is null: such a row is an error.

    Args:
        rows: the input rows.
        columns: the columns of texts, or of lists of texts, that the task reads, in its order.
    """
    if len(columns) == 1 and not _is_list(rows.column(columns[0]).type):
        texts = rows.column(columns[0]).cast(pa.large_binary()).to_pylist()
        keys = [None if text is None else blake2b(text, digest_size=KEY_BYTES).digest()
                for text in texts]  # fmt: skip
    else:
        values = (_values(rows.column(name)) for name in columns)
        keys = [_key(row) for row in zip(*values, strict=True)]
    return pa.array(keys, KEY_FIELD.type)


def key_values(keys: pa.FixedSizeBinaryArray) -> list[bytes]:
    """The keys, b"" for none. `to_pylist` would take as long as hashing the texts."""
    stored = keys.buffers()[1] or b""
    kind, end = np.dtype((np.void, KEY_BYTES)), keys.offset + len(keys)
    values: list[bytes] = np.frombuffer(stored, kind, end)[keys.offset :].tolist()
    for row in np.flatnonzero(keys.is_null()).tolist():
        values[row] = b""
    return values


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _values(column: pa.Array) -> list[bytes | list[bytes | None] | None]:
    kind = pa.large_binary()
    values: list[bytes | list[bytes | None] | None] = column.cast(
        pa.large_list(kind) if _is_list(column.type) else kind
    ).to_pylist()
    return values


def _key(row: Sequence[bytes | list[bytes | None] | None]) -> bytes | None:
    hashed = blake2b(digest_size=KEY_BYTES)
    for value in row:
        for piece in _encoded(value):
            if piece is None:
                return None
            hashed.update(piece)
    return hashed.digest()


def _encoded(value: bytes | list[bytes | None] | None) -> Iterator[bytes | None]:
    """The bytes that stand for a text or a list of texts; None for one that is null."""
    if value is None:
        yield None
        return
    yield len(value).to_bytes(8, "little")
    if isinstance(value, bytes):
        yield value
        return
    for text in value:
        yield from _encoded(text)
