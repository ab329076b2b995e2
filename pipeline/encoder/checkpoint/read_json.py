"""The one door through which JSON of a checkpoint comes in: bounded in size, values and depth.

A checkpoint is a stranger's: its JSON may be larger than the memory, nested deeper than Python's
stack, or no file at all.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.encoder.checkpoint.bounds import (
    MAX_JSON_BYTES,
    MAX_JSON_DEPTH,
    MAX_JSON_MEMORY,
    MAX_VOCABULARY_BYTES,
)
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.errors import CheckpointError

# Hints of several errors.
DOWNLOAD_AGAIN = "download the checkpoint again: the file is damaged or incomplete"
NAME_CHECKPOINT = "name a directory or repository that holds a transformers checkpoint"

Pairs = Callable[[list[tuple[str, Any]]], Any]


@contextmanager
def opened(file: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open for reading, and its size in bytes.

    Raises:
        CheckpointError: it is no file, or cannot be read.
    """
    try:
        # A pipe without a writer must not block, and a device never ends.
        with open(os.open(str(file), os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{file} is not a regular file", hint=DOWNLOAD_AGAIN)
            yield handle, status.st_size
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}", hint="check the file and its permissions"
        ) from error


def read_bounded(file: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        CheckpointError: it is larger than the limit, is no file, or cannot be read.
    """
    with opened(file) as (handle, size):
        if size <= limit and len(content := handle.read(limit + 1)) <= limit:
            return content
    raise CheckpointError(
        f"{file} has more than {limit:,} bytes; no published checkpoint comes near that",
        hint=DOWNLOAD_AGAIN,
    )


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: it is not JSON, or larger or deeper than any published file of its kind.
    """
    if file.name == "tokenizer.json":
        return parse_json(read_bounded(file, MAX_VOCABULARY_BYTES), file)
    value = parse_json(read_bounded(file, MAX_JSON_BYTES), file)
    check_depth(value, file)
    return value


def parse_json(content: bytes, file: Path, pairs: Pairs | None = None) -> Any:
    """The value of JSON text.

    Args:
        content: UTF-8.
        file: for messages.
        pairs: `object_pairs_hook` of json.loads.

    Raises:
        CheckpointError: it is not JSON, or has too many values.
    """
    if _memory(content) > MAX_JSON_MEMORY:
        raise CheckpointError(
            f"{file} holds more values than any published checkpoint", hint=DOWNLOAD_AGAIN
        )
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=pairs)
    except RecursionError as error:
        raise _too_deep(file) from error
    except ValueError as error:  # UnicodeDecodeError is one too, and so are too many digits
        raise CheckpointError(
            f"{file} is not valid JSON: {one_line(str(error).partition(';')[0])}",
            hint=DOWNLOAD_AGAIN,
        ) from error


def canonical_json(value: Any, file: Path) -> bytes:
    """JSON text that does not depend on white space and the order of keys.

    Raises:
        CheckpointError: a string holds half of a surrogate pair, or lists are nested too deeply.
    """
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _too_deep(file) from error
    except ValueError as error:
        raise CheckpointError(
            f"{file} holds text that is not Unicode: {one_line(error)}", hint=DOWNLOAD_AGAIN
        ) from error


def check_depth(value: Any, file: Path) -> None:
    """Raise a CheckpointError if lists and objects are nested too deeply to be used safely."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [inner for outer in level for inner in _values(outer)]
        if not level:
            return
    raise _too_deep(file)


def _values(container: Any) -> list[Any]:
    """The lists and objects directly in a list or an object."""
    if isinstance(container, dict):
        container = container.values()
    elif not isinstance(container, list):
        return []
    return [inner for inner in container if isinstance(inner, dict | list)]


def _memory(content: bytes) -> int:
    """Bytes that Python needs at most for the values of JSON text, without the text in strings."""
    objects, lists = content.count(b"{"), content.count(b"[")
    return 232 * objects + 88 * lists + 64 * content.count(b",") + 96 * content.count(b":")


def _too_deep(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} nests lists or objects more than {MAX_JSON_DEPTH} deep", hint=DOWNLOAD_AGAIN
    )
