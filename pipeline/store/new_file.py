"""A file or a directory of any size, written piece by piece: whole under its name, or not there.

`Directory.create` takes a file that is complete in memory, and tries again. What is written here
cannot be repeated, so a failure ends it; only single requests of an upload are tried again.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from pipeline.errors import OutputConflict, StorageError, UsageError
from pipeline.store.client_errors import translated
from pipeline.store.directory import Directory
from pipeline.store.uris import filesystem, is_local, redact

# A file on S3 has at most 10,000 parts.
_MAX_PARTS = 9_000
_MIN_PART_BYTES = 32 << 20


@contextmanager
def new_file(uri: str, *, overwrite: bool, max_bytes: int) -> Iterator[BinaryIO]:
    """A file to be written from start to end, which has its name once the context is left.

    Where the context is left by an exception, the name stands for what it stood for before.

    Args:
        uri: absolute, of any store.
        overwrite: whether the file may take the place of another.
        max_bytes: how long it may become, roughly.

    Raises:
        OutputConflict: there is a file of that name, and `overwrite` is not set.
        UsageError: no file can be written there.
        NotFound, AccessDenied, StoreFull, StorageError: the store failed.
    """
    made = _local_file(uri, overwrite) if is_local(uri) else _upload(uri, overwrite, max_bytes)
    with translated(uri):
        try:
            with made as file:
                yield file
        except FileExistsError as error:
            raise exists(uri) from error


@contextmanager
def _local_file(path: str, overwrite: bool) -> Iterator[BinaryIO]:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = _temporary(folder)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_unless_taken(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _rename_unless_taken(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)


@contextmanager
def _upload(uri: str, overwrite: bool, max_bytes: int) -> Iterator[BinaryIO]:
    fs, path = filesystem(uri, retrying=True)
    part = max(_MIN_PART_BYTES, max_bytes // _MAX_PARTS)
    try:
        file = fs.open(path, "wb" if overwrite else "xb", block_size=part)
    except (NotImplementedError, ValueError) as error:
        raise UsageError(
            f"{redact(uri)}: this kind of store takes no new files",
            hint="give a path of this machine, or a URI such as s3://bucket/path",
        ) from error
    try:
        yield file
        file.close()
    except BaseException:
        _discard(file)
        raise


def _discard(file: Any) -> None:
    """Drop an upload. Otherwise a garbage collection would close it, which completes it."""
    file.forced = file.closed = True
    with suppress(Exception):  # the error that ended the upload is more useful
        file.discard()


@contextmanager
def new_directory(uri: str, *, overwrite: bool) -> Iterator[str]:
    """A directory to be filled, which has its name once the context is left.

    Stores have no directories: there, the files of an earlier one are deleted first, and after an
    exception those that were written.

    Args:
        uri: absolute, of any store.
        overwrite: whether it may take the place of another, as a whole.

    Yields:
        The URI to write files below.

    Raises:
        OutputConflict: there is a directory with files, and `overwrite` is not set.
        NotFound, AccessDenied, StoreFull, StorageError: the store failed.
    """
    if is_local(uri):
        with translated(uri), _local_directory(os.path.realpath(uri), overwrite) as temporary:
            yield temporary
        return
    directory = Directory(uri)
    if overwrite:
        _empty(directory)
    try:
        yield uri
    except BaseException:
        with suppress(StorageError):
            _empty(directory)
        raise


@contextmanager
def _local_directory(path: str, overwrite: bool) -> Iterator[str]:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary, old = _temporary(folder), _temporary(folder)
    try:
        os.mkdir(temporary)
        yield temporary
        if overwrite and os.path.exists(path):
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError as error:
            raise exists(path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def exists(uri: str) -> OutputConflict:
    """The error that something is there already."""
    return OutputConflict(
        f"{redact(uri)} exists", hint="give another name, or --overwrite to replace it"
    )


def _empty(directory: Directory) -> None:
    for item in directory.list(recursive=True):
        directory.delete(item.name)


def _temporary(folder: str) -> str:
    return os.path.join(folder, f".bei-jobs-{uuid.uuid4().hex}.tmp")
