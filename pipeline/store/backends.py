"""What differs between kinds of store: create-only writes, listings and versions.

`Directory` in `pipeline.store.directory` adds the checks, the error tree and the read-back after a
failed write.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from stat import S_ISDIR
from typing import Any, BinaryIO, Protocol, cast

from pipeline.errors import StorageError
from pipeline.store.object_info import ObjectInfo, is_folder, object_info, stat_version
from pipeline.store.uris import filesystem, is_web
from pipeline.store.web import web_info

# Unfinished files of a local output, relative to its root.
TMP = "_bei/tmp"

_STALE_SECONDS = 24 * 3600
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)
_PAGE_FILES = 1000
_MEMORY_LOCK = threading.Lock()


class Store(Protocol):
    """Operations on names under one root; errors of the store's client are raised unchanged."""

    def create(self, name: str, data: bytes | memoryview) -> None: ...
    def replace(self, name: str, data: bytes | memoryview) -> None: ...
    def read(self, name: str) -> bytes: ...
    def info(self, name: str) -> ObjectInfo: ...
    def delete(self, name: str) -> None: ...
    def list(self, prefix: str, recursive: bool, after: str) -> Iterator[list[ObjectInfo]]: ...


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A directory on this machine or on a mounted file server."""

    root: str

    def create(self, name: str, data: bytes | memoryview) -> None:
        """Link a synced temporary file into place: atomic, and never over another file.

        fsspec's own `mode="create"` checks and then writes, so two writers can both succeed.

        Raises:
            FileExistsError: the name is taken.
            StorageError: the filesystem has no hard links.
        """
        target = self._prepare(name)
        temporary = self._temporary(data)
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            raise StorageError(
                f"{self.root}: the filesystem refuses hard links ({error.strerror}), "
                "without which a part cannot be committed exactly once",
                hint="choose an --output on another filesystem (ext4, xfs, NFS) or a bucket",
            ) from error
        finally:
            os.unlink(temporary)
        _sync_directory(os.path.dirname(target))

    def replace(self, name: str, data: bytes | memoryview) -> None:
        os.replace(self._temporary(data), self._prepare(name))

    def _prepare(self, name: str) -> str:
        target = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return target

    def _temporary(self, data: bytes | memoryview) -> str:
        """The path of a new file that holds `data` on disk, on the filesystem of the output."""
        path = self._prepare(f"{TMP}/{uuid.uuid4().hex}")
        try:
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        return path

    def sweep(self) -> None:
        """Remove temporary files that a killed process left more than a day ago."""
        directory = os.path.join(self.root, TMP)
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                        os.unlink(entry.path)

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()

    def info(self, name: str) -> ObjectInfo:
        stat = os.stat(path := os.path.join(self.root, name))
        if S_ISDIR(stat.st_mode):
            raise FileNotFoundError(errno.ENOENT, "a directory, not a file", path)
        return ObjectInfo(name, stat.st_size, stat_version(stat), stat.st_mtime)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, name))

    def list(self, prefix: str, recursive: bool, after: str) -> Iterator[list[ObjectInfo]]:
        folder, slash, stem = prefix.rpartition("/")
        walk = self._walk(folder + slash, stem, recursive)
        rest = (info for info in walk if os.fsencode(info.name) > os.fsencode(after))
        while page := list(islice(rest, _PAGE_FILES)):
            yield page

    def _walk(self, folder: str, stem: str, recursive: bool) -> Iterator[ObjectInfo]:
        """Files below `folder` ("" or ending in "/") in byte order of their whole names."""
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                matching = [entry for entry in entries if entry.name.startswith(stem)]
        except (FileNotFoundError, NotADirectoryError):
            return
        matching.sort(key=_sort_key)
        for entry in matching:
            if entry.is_dir(follow_symlinks=False):
                if recursive:
                    yield from self._walk(f"{folder}{entry.name}/", "", True)
                continue
            with suppress(FileNotFoundError):  # deleted since it was listed
                if entry.is_file():
                    stat = entry.stat()
                    version = stat_version(stat)
                    yield ObjectInfo(folder + entry.name, stat.st_size, version, stat.st_mtime)


def _sort_key(entry: os.DirEntry[str]) -> bytes:
    # A directory sorts by its name with a slash, because "a/b" comes after "a.b".
    suffix = b"/" if entry.is_dir(follow_symlinks=False) else b""
    return os.fsencode(entry.name) + suffix


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Other fsspec filesystems with `pipe_file(mode="create")`, such as GCS and Azure."""

    root: str

    def _at(self, name: str) -> tuple[Any, str]:
        fs, path = filesystem(self.root, name)
        return fs, f"{path}/{name}" if name else path

    def create(self, name: str, data: bytes | memoryview) -> None:
        fs, path = self._at(name)
        # Clients accept only bytes; `bytes()` does not copy what already is bytes.
        fs.pipe_file(path, bytes(data), mode="create")

    def replace(self, name: str, data: bytes | memoryview) -> None:
        fs, path = self._at(name)
        fs.pipe_file(path, bytes(data))

    def read(self, name: str) -> bytes:
        fs, path = self._at(name)
        return cast(bytes, fs.cat_file(path))

    def info(self, name: str) -> ObjectInfo:
        fs, path = self._at(name)
        info = web_info(fs, path) if is_web(self.root) else fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return object_info(name, info, info["size"])

    def delete(self, name: str) -> None:
        fs, path = self._at(name)
        with suppress(FileNotFoundError):
            fs.rm_file(path)

    def list(self, prefix: str, recursive: bool, after: str) -> Iterator[list[ObjectInfo]]:
        _, root = self._at("")
        fs, base = self._at(prefix.rpartition("/")[0])
        infos = fs.find(base, maxdepth=None if recursive else 1, detail=True)
        names = {path[len(root) :].lstrip("/"): info for path, info in infos.items()}
        yield [
            object_info(name, names[name], names[name]["size"])
            for name in sorted(names, key=os.fsencode)
            if name.startswith(prefix) and os.fsencode(name) > os.fsencode(after)
        ]


class MemoryStore(RemoteStore):
    """fsspec's in-process store, for tests and notebooks."""

    __slots__ = ()

    def create(self, name: str, data: bytes | memoryview) -> None:
        # fsspec checks and then writes; within one process a lock makes this one step.
        with _MEMORY_LOCK:
            fs, path = self._at(name)
            if fs.exists(path):
                raise FileExistsError(path)
            fs.pipe_file(path, bytes(data))

    def open(self, name: str) -> BinaryIO:
        # fsspec gives all who open the file one handle, with one position.
        return io.BytesIO(self.read(name))


class S3Store(RemoteStore):
    """S3 and stores with its API. `If-None-Match: *` makes a write create-only."""

    __slots__ = ()

    def read(self, name: str) -> bytes:
        fs, path = self._at(name)
        return cast(bytes, fs.cat_file(path, max_concurrency=1))  # which sends no HEAD

    def info(self, name: str) -> ObjectInfo:
        """One HEAD; s3fs lists as well where there is no object, in case it is a directory."""
        fs, path = self._at(name)
        bucket, key, _ = fs.split_path(path)
        if not key:
            raise FileNotFoundError(path)
        head = fs.call_s3("head_object", fs.kwargs, Bucket=bucket, Key=key)
        return object_info(name, head, head["ContentLength"])

    def list(self, prefix: str, recursive: bool, after: str) -> Iterator[list[ObjectInfo]]:
        """List page by page, 1,000 keys in memory; the API returns keys in byte order.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        """
        fs, root = filesystem(self.root, prefix)
        bucket, key, _ = fs.split_path(root)
        base = f"{key}/" if key else ""
        request = {"Bucket": bucket, "Prefix": base + prefix}
        if after:
            request["StartAfter"] = base + after
        if not recursive:
            request["Delimiter"] = "/"
        while True:
            page = fs.call_s3("list_objects_v2", **request)
            yield [
                object_info(item["Key"][len(base) :], item, item["Size"])
                for item in page.get("Contents", ())
                if not is_folder(item["Key"])
            ]
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]
