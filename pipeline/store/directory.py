"""The only access to a store: open, list, file versions and the create-only write.

Creating a file *is* a commit, so `Directory.create` has to be right in cases that a plain write
may get wrong: two writers, a lost response, a full disk, a store that ignores the condition.
Every call of a store goes through `pipeline.store.retry`.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import BinaryIO, Self, TypeAlias

import pyarrow as pa

from pipeline.errors import NotFound, StorageError
from pipeline.store.backends import TMP, LocalStore, MemoryStore, Store
from pipeline.store.client_errors import translated
from pipeline.store.kinds import store_of
from pipeline.store.object_info import ObjectInfo, stat_version
from pipeline.store.retry import call, failure_kind, forget
from pipeline.store.signs import signs
from pipeline.store.uris import absolute, filesystem, is_local, is_web, redact
from pipeline.store.web import WebCopy, open_ranges, open_web, web_version

__all__ = [
    "Directory",
    "ObjectInfo",
    "OpenedFile",
    "file_info",
    "told_version",
]

# Anything with a buffer: bytes, memoryview, pyarrow.Buffer.
Data: TypeAlias = bytes | bytearray | memoryview | pa.Buffer


class Directory:
    """An output prefix: names below one URI of any store.

    It holds only the URI, so it may be pickled, shared between threads and carried across a
    fork. Names are relative, "/"-separated, and taken literally (no glob).

    Every method tries a call again while that can help (see `pipeline.store.retry`), and raises
    NotFound, AccessDenied, StoreFull or StorageError when the store fails.
    """

    __slots__ = ("uri",)

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)

    def __repr__(self) -> str:
        return f"Directory({redact(self.uri)!r})"

    @property
    def _store(self) -> Store:
        return store_of(self.uri)

    def uri_of(self, name: str) -> str:
        """The URI of the file `name`."""
        return f"{self.uri.rstrip('/')}/{name}"

    def create(self, name: str, data: Data) -> bool:
        """Write `name` unless it exists. Returns whether it now holds exactly `data`.

        On any error of the write the file is read back, because the write may have been applied
        and only its response lost. The stored bytes decide: put a unique id into `data` where it
        matters which writer won, since equal bytes count as this call's. Only a write that left
        nothing is tried again.

        Raises:
            ValueError: `data` is empty (S3 clients write an empty body unconditionally).
        """
        view = _view(data)
        if not len(view):
            raise ValueError(f"{name}: an empty file cannot be created exclusively")
        return call(self.uri_of(name), lambda: self._create(_checked(name), view))

    def _create(self, name: str, data: bytes | memoryview) -> bool:
        store = self._store
        try:
            store.create(name, data)
        except Exception as error:
            try:
                holds_data = store.read(name) == data
            except Exception as unread:
                if failure_kind(unread) is not None:
                    raise  # who won is known after the next try
                if isinstance(error, FileExistsError):
                    raise  # it is there, and may not be read
                forget(unread)
                raise error from error.__cause__
            forget(error)
            return holds_data
        return True

    def put(self, name: str, data: Data) -> None:
        """Write or overwrite `name`; for advisory files only. Readers see old or new bytes."""
        view = _view(data)
        call(self.uri_of(name), lambda: self._put(_checked(name), view))

    def _put(self, name: str, data: bytes | memoryview) -> None:
        store = self._store
        try:
            store.replace(name, data)
        except Exception as error:
            if failure_kind(error) is None:
                raise
            with suppress(Exception):  # the error of the write is more useful
                if store.read(name) == data:  # only the response was lost
                    return forget(error)
            raise

    def read(self, name: str) -> bytes:
        """The whole content of `name`."""
        data = call(self.uri_of(name), lambda: self._store.read(_checked(name)))
        signs.give()
        return data

    def open(self, name: str) -> OpenedFile:
        """A seekable binary file over `name` that reads only the ranges asked for."""
        return OpenedFile(self.uri_of(_checked(name)))

    def info(self, name: str) -> ObjectInfo:
        """Size and version of `name`."""
        return call(self.uri_of(name), lambda: self._store.info(_checked(name)))

    def exists(self, name: str) -> bool:
        """Whether `name` is a file here."""
        try:
            self.info(name)
        except NotFound:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove `name`, if it exists."""
        call(self.uri_of(name), lambda: self._store.delete(_checked(name)))

    def list(
        self, prefix: str = "", *, recursive: bool = False, after: str = ""
    ) -> Iterator[ObjectInfo]:
        """Files whose name starts with `prefix`, in byte order of names, as a stream.

        Args:
            prefix: a plain string prefix; "logs/" lists a subdirectory.
            recursive: also names with a "/" beyond the prefix; directories are never listed.
            after: skip names up to and including this one.

        A directory that does not exist has no files; a bucket that does not exist is NotFound.
        """
        pages: Iterator[list[ObjectInfo]] | None = None
        last = after

        def next_page() -> list[ObjectInfo] | None:
            nonlocal pages
            pages = pages or self._store.list(prefix, recursive, last)
            try:
                return next(pages, None)
            except Exception:
                pages = None  # a generator that raised has ended: go on after `last`
                raise

        while (page := call(self.uri_of(prefix), next_page)) is not None:
            yield from page
            last = page[-1].name if page else last

    def probe(self) -> None:
        """Check that files can be created here, and each only once.

        Raises:
            StorageError: the store ignores the condition of a create-only write.
            AccessDenied, NotFound, StoreFull: the store cannot be written to.
        """
        name = f"{TMP}/probe-{uuid.uuid4().hex}"
        try:
            self.create(name, b"first")
            if self.create(name, b"second"):
                raise StorageError(
                    f"{redact(self.uri)}: the store overwrites a file that it was asked to "
                    "create only if it is missing, so two workers could both commit a part",
                    hint="use a store with conditional writes (AWS S3, MinIO, GCS, Azure, a disk)",
                )
        except StorageError:
            with suppress(StorageError), translated(self.uri):  # this error is more useful
                self._store.delete(name)
            raise
        self.delete(name)
        if isinstance(store := self._store, LocalStore):
            call(self.uri, store.sweep)


class OpenedFile:
    """One input file opened for reading, as the seekable binary file that pyarrow takes.

    A context manager; leaving the context closes it. Not to be shared between threads.

    Raises:
        NotFound, AccessDenied, StorageError: from the constructor and from every read, so that
            any other error of a format's reader is about the content.
    """

    def __init__(self, uri: str, *, sequential: bool = False) -> None:
        """Open an absolute `uri`.

        Args:
            uri: of any store.
            sequential: read ahead for one pass; otherwise each read fetches exactly its range,
                which suits a reader of row groups.
        """
        self.uri = uri
        self._open = partial(_open, uri, sequential)
        self._file = call(uri, self._open)

    def version(self) -> str:
        """The version of the opened file; for a remote file, the version now at its URI."""
        if is_local(self.uri):
            return call(self.uri, lambda: stat_version(os.fstat(self._file.fileno())))
        if isinstance(self._file, WebCopy):
            return self._file.version
        return file_info(self.uri).version

    def read(self, size: int = -1) -> bytes:
        position = self._file.tell()

        def read_range() -> bytes:
            if self._file.tell() != position:  # what failed read a part of it
                self._file.seek(position)
            try:
                return self._file.read(size)
            except OSError as error:
                if error.errno == errno.ESTALE:  # for this handle it never passes (NFS)
                    self._file = self._open()
                raise

        data = call(self.uri, read_range)
        if data:
            signs.give()
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with translated(self.uri):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Do nothing: pyarrow closes a file it has read, but the version is needed after that."""

    @property
    def closed(self) -> bool:
        return self._file.closed

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _open(uri: str, sequential: bool) -> BinaryIO:
    if is_local(uri):
        return open(absolute(uri), "rb")
    if uri.startswith("memory://"):
        parent, _, name = uri.rpartition("/")
        return MemoryStore(parent).open(name)
    fs, path = filesystem(uri)
    opener = open_web if is_web(uri) else open_ranges
    return opener(fs, path, "readahead" if sequential else "none")


def file_info(uri: str) -> ObjectInfo:
    """Size and version of the file at an absolute `uri`; the name is its last segment.

    Raises:
        NotFound: there is no file, or `uri` is a directory.
    """
    parent, _, name = uri.rpartition("/")
    # A key may hold "//", of which the URI of a directory keeps none at its end.
    root = parent.rstrip("/") if "://" in parent else parent
    info = call(uri, lambda: store_of(root or "/").info(parent[len(root) :] + name))
    return replace(info, name=name)


def told_version(uri: str, size: int) -> str | None:
    """The version that the store tells of the file at an absolute `uri`, which is not read.

    Args:
        uri: of any store.
        size: of the file in bytes, for a web server that does not tell it.

    Returns:
        None where the store tells nothing, and only the content has a version.

    Raises:
        NotFound: there is no file.
    """
    if not is_web(uri):
        return file_info(uri).version
    fs, path = filesystem(uri)
    return call(uri, lambda: web_version(fs, path, size))


def _view(data: Data) -> bytes | memoryview:
    return data if isinstance(data, bytes) else memoryview(data).cast("B")


def _checked(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not a name below a directory")
    return name
