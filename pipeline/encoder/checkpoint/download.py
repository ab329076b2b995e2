"""Checkpoints from object stores and archives, through a local cache keyed by content.

Only files that a checkpoint needs are taken: JSON, vocabularies and safetensors. Pickles and code
are never even downloaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipeline.encoder.checkpoint.archive import unpack, wanted
from pipeline.errors import CheckpointError
from pipeline.store.uris import redact

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def is_uri(model: str) -> bool:
    """Whether a model is named as a URI."""
    return _URI.match(model) is not None


def is_archive(model: str) -> bool:
    """Whether a model is named as a packed archive."""
    return model.split("?")[0].endswith((".tar.gz", ".tgz", ".tar"))


def reason(failure: object) -> str:
    """The first line of a failure, its URLs fit to print: the hub's own advice follows."""
    line = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    return _URL_IN_TEXT.sub(lambda match: redact(match.group()), line)


def fetch(uri: str, cache: Path, *, offline: bool) -> Path:
    """Bring a checkpoint from a store or an archive into the cache.

    The cache is keyed by content: `models/<sha256>/`. A listing (names, sizes, ETags) that was
    seen before points to it, so an unchanged checkpoint is not fetched twice. Both appear
    atomically; two processes that fetch at once end with the same directory.

    Raises:
        CheckpointError: the scheme is not safe, or the files cannot be listed or read.
    """
    if uri.lower().startswith("http://"):
        raise CheckpointError(
            f"{_bare(uri)} is not encrypted, so its weights could be anybody's",
            hint="Use https://.",
        )
    pointer = cache / "refs" / digest(uri, *([] if offline else _version(uri)))
    if offline:
        pointer = cache / "refs" / digest(uri)
    if pointer.is_file():
        known = cache / "models" / pointer.read_text(encoding="ascii")
        if known.is_dir():
            return known
    if offline:
        raise CheckpointError(
            f"{_bare(uri)} is not in the cache and offline was asked for",
            hint="Run once with a network, or name a directory.",
        )
    (cache / "models").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "models", prefix=".partial-") as partial:
        staged = Path(partial) / "model"
        staged.mkdir()
        with _explained(uri):
            _download(uri, staged, Path(partial))
        placed = _place(staged, cache)
    for ref in (pointer, cache / "refs" / digest(uri)):
        write(ref, placed.name)
    return placed


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn whatever a store raises into one error that names the URI without its secrets."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # every store has exceptions of its own
        raise CheckpointError(
            f"{_bare(uri)} could not be read: {type(error).__name__}: {reason(error)}",
            hint="Check the URI and the credentials; gs:// needs gcsfs, az:// adlfs, s3:// s3fs, "
            "https:// aiohttp.",
        ) from error


def _bare(uri: str) -> str:
    """A URI without query and user: signed URLs carry their signature there."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}" if rest else uri


def _version(uri: str) -> list[str]:
    """What a store says about the files now: names, sizes and versions."""
    with _explained(uri):
        fs, path = fsspec.core.url_to_fs(uri)
        found = {path: fs.info(path)} if is_archive(uri) else fs.find(path, detail=True)
        return sorted(_identity(info) for info in found.values())


def _identity(info: dict[str, Any]) -> str:
    keys = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime")
    versions = [str(info[key]) for key in keys if info.get(key) is not None]
    return "\0".join([str(info.get("name")), str(info.get("size")), *versions])


def _download(uri: str, target: Path, scratch: Path) -> None:
    fs, path = fsspec.core.url_to_fs(uri)
    if is_archive(uri):
        packed = scratch / "archive"
        fs.get_file(path, str(packed))
        unpack(packed, target)
        return
    root = PurePosixPath(fs._strip_protocol(path))
    found = {PurePosixPath(name).relative_to(root): name for name in sorted(fs.find(path))}
    if not any(str(relative) in ("config.json", "modules.json") for relative in found):
        raise CheckpointError(
            f"{_bare(uri)} holds no files of a checkpoint: no config.json and no modules.json",
            hint="Check the spelling: name the folder that holds config.json, or a .tar.gz.",
        )
    for relative, name in found.items():
        if wanted(relative):
            local = target / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(local))


def _place(staged: Path, cache: Path) -> Path:
    """Move a staged checkpoint to the name of its content."""
    content = hashlib.sha256()
    for file in sorted(p for p in staged.rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            own = hashlib.file_digest(handle, "sha256").hexdigest()
        content.update(f"{file.relative_to(staged).as_posix()}\0{own}\0".encode())
    placed = cache / "models" / content.hexdigest()
    try:
        staged.rename(placed)
    except OSError:
        if not placed.is_dir():  # else another process was first, with the same bytes
            raise
    return placed


def digest(*parts: str) -> str:
    """One name for some words, 64 hex digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write(file: Path, content: str) -> None:
    """Put a small ASCII file in its place, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(content, encoding="ascii")
    partial.replace(file)
