"""Files of web servers, which may refuse ranges and tell no size: those are copied, then read.

The copy is an unnamed file in the machine's temporary directory, and ends with the reader.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import Any, BinaryIO, cast

from pipeline.store.object_info import info_version
from pipeline.store.signs import signs

_BLOCK_BYTES = 8 << 20
_VALIDATORS = ("ETag", "Last-Modified")


def open_ranges(fs: Any, path: str, cache: str, **options: Any) -> BinaryIO:
    """Open a file of any store that gives ranges of it, with a cache of fsspec's."""
    return cast(BinaryIO, fs.open(path, "rb", cache_type=cache, block_size=_BLOCK_BYTES, **options))


class WebCopy(io.BufferedRandom):
    """A copy of a file, with the version that it is of."""

    version = ""


def open_web(fs: Any, path: str, cache: str) -> BinaryIO:
    """Open a file of a web server to be read at any place."""
    info = _info(fs, path)
    if _takes_ranges(fs, path, info):
        return open_ranges(fs, path, cache, size=info["size"])
    copy = _copy(fs, path)
    copy.version = info_version(_with_version(_info(fs, path), copy))  # as it is after the copy
    copy.seek(0)
    return copy


def web_info(fs: Any, path: str) -> dict[str, Any]:
    """What fsspec tells of a file, with a size and a version where the server tells none."""
    info = _info(fs, path)
    if info["size"] is not None:
        return info
    with _copy(fs, path) as copy:
        return _with_version(info, copy)


def web_version(fs: Any, path: str, size: int) -> str | None:
    """The version that a server tells of a file of `size` bytes, which is not read.

    Returns:
        None where the server tells nothing, and only the content has a version.
    """
    info = _info(fs, path)
    if info["size"] is not None:
        return info_version(info)
    return info_version({**info, "size": size}) if _has_validator(info) else None


def _has_validator(info: dict[str, Any]) -> bool:
    return any(map(info.get, _VALIDATORS))


def _with_version(info: dict[str, Any], copy: WebCopy) -> dict[str, Any]:
    """The info with a size; and where it has no version, a hash of the content for one."""
    if info["size"] is not None:
        return info
    tag = {}
    if not _has_validator(info):
        copy.seek(0)
        tag["ETag"] = hashlib.file_digest(copy, "sha256").hexdigest()[:32]
    return {**info, "size": copy.seek(0, io.SEEK_END), **tag}


def _info(fs: Any, path: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], fs.info(path))
    except FileNotFoundError as error:
        # It says so of every error, a server that is down too.
        raise error.__cause__ or error from None


def _takes_ranges(fs: Any, path: str, info: dict[str, Any]) -> bool:
    size = info["size"]
    if size is None:
        return False
    with open_ranges(fs, path, "none", size=size) as file:
        file.seek(min(1, size))
        try:
            file.read(1)
        except ValueError:  # the answer is the whole file
            return False
    return True


def _copy(fs: Any, path: str) -> WebCopy:
    unnamed = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, the reader closes it
    copy = WebCopy(cast(io.RawIOBase, unnamed))
    try:
        with fs.open(path, "rb", block_size=0) as file:
            while data := file.read(_BLOCK_BYTES):
                copy.write(data)
                signs.give()
    except BaseException:
        copy.close()
        raise
    return copy
