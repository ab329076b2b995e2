"""The files below a local directory, links followed: what is linked there belongs to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from stat import S_ISLNK, S_ISREG

from pipeline.errors import InputError
from pipeline.store.directory import ObjectInfo
from pipeline.store.object_info import stat_version


def files_below(folder: str) -> Iterator[ObjectInfo]:
    """What is below an absolute path and no directory, by its path from there, in any order.

    Raises:
        InputError: a link leads back to a directory that it is in; the message names it.
        OSError: a directory cannot be listed.
    """
    yield from _below(folder, "", {})


def file_or_link(path: str, name: str) -> ObjectInfo:
    """A file; one without a version if it is none, such as a pipe or a device.

    A link that leads nowhere is listed as it is, so that it is named as a file that is missing, and
    not left out without a word.

    Raises:
        FileNotFoundError: there is neither a file nor a link.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        stat = os.lstat(path)
    if not (S_ISREG(stat.st_mode) or S_ISLNK(stat.st_mode)):
        return ObjectInfo(name, 0, "")
    return ObjectInfo(name, stat.st_size, stat_version(stat), stat.st_mtime)


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
            if _is_directory(entry):
                yield from _below(entry.path, f"{name}/", {**above, key: folder})
                continue
            with suppress(FileNotFoundError):  # deleted since it was listed
                yield file_or_link(entry.path, name)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself is none
            raise
        return False
