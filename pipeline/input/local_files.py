"""The files below a local directory, links followed: what is linked there belongs to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from pipeline.errors import InputError
from pipeline.store.directory import ObjectInfo
from pipeline.store.object_info import stat_version


def files_below(folder: str) -> Iterator[ObjectInfo]:
    """Every file below an absolute path, by its path from there, in no particular order.

    Raises:
        InputError: a link leads back to a directory that it is in; the message names it.
        OSError: a directory cannot be listed.
    """
    yield from _below(folder, "", {})


def real_path(uri: str) -> str:
    """Where a local file is once all links are followed."""
    return os.path.realpath(uri)


def _below(folder: str, prefix: str, above: dict[tuple[int, int], str]) -> Iterator[ObjectInfo]:
    stat = os.stat(folder)
    key = stat.st_dev, stat.st_ino
    if key in above:
        raise InputError(
            f"{folder} links back to {above[key]}, which it is in",
            hint="remove the link, or name the directories beside it as inputs",
        )
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                yield from _below(entry.path, f"{name}/", {**above, key: folder})
                continue
            with suppress(FileNotFoundError):  # deleted since it was listed
                if entry.is_file():
                    found = entry.stat()
                    version = stat_version(found)
                    yield ObjectInfo(name, found.st_size, version, found.st_mtime)
