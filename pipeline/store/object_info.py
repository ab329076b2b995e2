"""One file of a store: its size, its version, and when it was written."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One file of a store at the time of the call."""

    name: str  # relative to the directory it was listed in
    size: int  # bytes
    version: str  # ETag, generation, or size, mtime_ns and ctime_ns
    # Seconds since the epoch by the store's clock; 0: it does not say.
    modified: float = field(default=0.0, compare=False)


def is_folder(name: str) -> bool:
    """Whether an object only stands for a directory, as web consoles and Hadoop make them."""
    return name.endswith(("/", "_$folder$"))


def stat_version(stat: os.stat_result) -> str:
    """The version of a local file."""
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"


def object_info(name: str, info: dict[str, Any], size: int) -> ObjectInfo:
    """A file from fsspec's info about it, or from an S3 listing."""
    return ObjectInfo(name, size, info_version(info), _modified(info))


def _modified(info: dict[str, Any]) -> float:
    """When a file was last written, from fsspec's info about it; 0 where that does not say."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        modified = info.get(key)
        if isinstance(modified, str):
            with suppress(ValueError):
                modified = datetime.fromisoformat(modified)
        if isinstance(modified, datetime):
            return modified.timestamp()
        if isinstance(modified, int | float):
            return float(modified)
    return 0.0


def info_version(info: dict[str, Any]) -> str:
    """The version of a file from fsspec's info about it: the store's own tag if there is one."""
    for key in ("generation", "ETag", "etag", "blob_id"):
        if tag := info.get(key):
            return str(tag).strip('"')
    size = info.get("size", 0)
    for key in ("mtime", "LastModified", "last_modified", "created", "Last-Modified"):
        if (modified := info.get(key)) is not None:
            if key == "LastModified" and isinstance(modified, datetime):
                modified = modified.replace(microsecond=0)  # HEAD says no more, a listing may
            return f"{size}-{modified.timestamp() if isinstance(modified, datetime) else modified}"
    return str(size)
