"""Checkpoints from object stores and archives, through a local cache keyed by content.

Only files that a checkpoint needs are downloaded: JSON, vocabularies and the safetensors that are
read, never pickles or code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.encoder.checkpoint.archive import ROOT_FILES, unpack
from pipeline.encoder.checkpoint.choose_weights import is_small, weights_to_fetch
from pipeline.encoder.checkpoint.weight_files import TOKEN_VECTORS_NAME
from pipeline.errors import CheckpointError
from pipeline.store.clients import register
from pipeline.store.sections import configured
from pipeline.store.uris import redact

logger = logging.getLogger(__name__)

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def is_uri(model: str) -> bool:
    """Whether a model's name is a URI."""
    return _URI.match(model) is not None


def is_archive(model: str) -> bool:
    """Whether a model's name is that of an archive."""
    return model.split("?")[0].endswith((".tar.gz", ".tgz", ".tar"))


def reason(failure: object) -> str:
    """First line of a failure, without secrets in its URLs; the hub's other lines are advice."""
    line = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    return _URL_IN_TEXT.sub(lambda match: redact(match.group()), line)


def announce(what: str) -> None:
    """Log that a download begins, or that an archive is unpacked: both may take minutes."""
    logger.info("%-16s the model from %s …", "fetching", what)


def fetch(uri: str, cache: Path, *, offline: bool) -> Path:
    """Download a checkpoint from a store or an archive into the cache.

    The cache is keyed by content: `models/<sha256>/`. A reference from the hash of the listing
    (names, sizes, ETags) points to it, so an unchanged checkpoint is not downloaded twice. Both
    appear atomically; two processes that download at once end with the same directory.

    Raises:
        CheckpointError: the scheme is not safe, the files cannot be listed or read, or the cache
            cannot be written.
    """
    if uri.lower().startswith("http://"):
        raise CheckpointError(
            f"{_bare(uri)} is not encrypted, so its weights could be replaced on the way",
            hint="use https://",
        )
    pointer = cache / "refs" / digest(uri, *([] if offline else _version(uri)))
    if offline:
        pointer = cache / "refs" / digest(uri)
    if pointer.is_file():
        cached = cache / "models" / pointer.read_text(encoding="ascii")
        if cached.is_dir():
            return cached
    if offline:
        raise CheckpointError(
            f"{_bare(uri)} is not in the cache, and offline mode is on",
            hint="run once with a network, or name a directory",
        )
    with cache_errors(cache):
        (cache / "models").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache / "models", prefix=".partial-") as partial:
            staged = Path(partial) / "model"
            staged.mkdir()
            announce(_bare(uri))
            with _store_errors(uri):
                download_files(uri, staged, Path(partial))
            placed = _place(staged, cache)
        for ref in (pointer, cache / "refs" / digest(uri)):
            write_atomically(ref, placed.name)
    return placed


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Turn an error of the cache's disk into one that says how to choose another directory."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint cannot be kept in {cache}: {error.strerror}",
            hint="set BEI_JOBS_CACHE_DIR to a directory that can be written",
        ) from error


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """Turn any error of a store into one that names the URI without its secrets."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # every store has exceptions of its own
        text = configured().scrub(uri, reason(error))
        raise CheckpointError(
            f"{_bare(uri)} could not be read: {type(error).__name__}: {text}",
            hint=f"check the URI and the credentials{configured().note(uri)}; gs:// needs gcsfs, "
            "az:// adlfs, s3:// s3fs, https:// aiohttp",
        ) from error


def _bare(uri: str) -> str:
    """A URI without query and user: signed URLs carry their signature there."""
    scheme, _, location = uri.partition("://")
    return f"{scheme}://{location.split('?')[0].rpartition('@')[2]}" if location else uri


def _version(uri: str) -> list[str]:
    """The files' names, sizes and versions as the store lists them now."""
    with _store_errors(uri):
        fs, path = _opened(uri)
        listing = {path: fs.info(path)} if is_archive(uri) else fs.find(path, detail=True)
        # A copy from before these weights were wanted lacks them: it is another version.
        later = [TOKEN_VECTORS_NAME for name in listing if name.endswith(f"/{TOKEN_VECTORS_NAME}")]
        return sorted(_identity(info) for info in listing.values()) + later


def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it."""
    from fsspec.core import url_to_fs  # takes a moment to import

    register()
    return url_to_fs(uri, **configured().options(uri))  # type: ignore[no-any-return]


def _identity(info: dict[str, Any]) -> str:
    keys = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime")
    versions = [str(info[key]) for key in keys if info.get(key) is not None]
    return "\0".join([str(info.get("name")), str(info.get("size")), *versions])


def download_files(uri: str, target: Path, scratch: Path) -> None:
    """Download the wanted files of a checkpoint to `target`; an archive is unpacked in `scratch`.

    Raises:
        CheckpointError: there is no checkpoint at the URI, or its archive is unsafe or damaged.
    """
    fs, path = _opened(uri)
    if is_archive(uri):
        archive = scratch / "archive"
        fs.get_file(path, str(archive))
        unpack(archive, target)
        return
    root = PurePosixPath(fs._strip_protocol(path))
    names = {str(PurePosixPath(name).relative_to(root)): name for name in sorted(fs.find(path))}
    if not any(relative in ROOT_FILES for relative in names):
        raise CheckpointError(
            f"{_bare(uri)} holds no checkpoint: it has neither config.json nor modules.json",
            hint="check the spelling, and name the folder that holds config.json, or a .tar.gz",
        )

    def get(relative: str) -> None:
        local = target / relative
        local.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(names[relative], str(local))

    for relative in filter(is_small, names):
        get(relative)
    for relative in weights_to_fetch(target, names):
        get(relative)


def _place(staged: Path, cache: Path) -> Path:
    """Move a staged checkpoint to the directory named after its content's hash."""
    content = hashlib.sha256()
    for file in sorted(p for p in staged.rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        content.update(f"{file.relative_to(staged).as_posix()}\0{sha256}\0".encode())
    placed = cache / "models" / content.hexdigest()
    try:
        staged.rename(placed)
    except OSError:
        if not placed.is_dir():  # otherwise another process was first, with the same bytes
            raise
    return placed


def sha256_of(file: Path, digests: Path) -> str:
    """Digest of a file, remembered by its path, size and modification time.

    Args:
        file: what to hash.
        digests: the folder of remembered digests; one that cannot be written only costs time.
    """
    real = file.resolve()
    status = real.stat()
    key = f"{real}\0{status.st_size}\0{status.st_mtime_ns}"
    memo = digests / hashlib.sha256(key.encode()).hexdigest()
    if memo.is_file() and len(remembered := memo.read_text(encoding="ascii").strip()) == 64:
        return remembered
    with real.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    with suppress(OSError):
        write_atomically(memo, found)
    return found


def digest(*parts: str) -> str:
    """One file name for several strings: 64 hex digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_atomically(file: Path, content: str) -> None:
    """Write a small ASCII file completely or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(content, encoding="ascii")
    partial.replace(file)
