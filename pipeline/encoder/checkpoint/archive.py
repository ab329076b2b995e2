"""Unpack checkpoint archives: nothing is written outside the target, and nothing fills the disk."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import CheckpointError

# Files that a checkpoint needs; no other file is downloaded or unpacked.
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
# Other runtimes' copies of the weights.
UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "*/onnx/*", "*/openvino/*")
# Far more than any encoder has; these stop a decompression bomb.
MAX_ARCHIVE_BYTES = 128 * 1024**3
MAX_ARCHIVE_FILES = 1_000


def is_wanted(relative: PurePosixPath) -> bool:
    """Whether a checkpoint needs a file, named relative to the checkpoint's folder."""
    return any(relative.match(p) for p in WANTED) and not any(relative.match(p) for p in UNWANTED)


def unpack(
    archive: Path,
    target: Path,
    *,
    max_bytes: int = MAX_ARCHIVE_BYTES,
    max_files: int = MAX_ARCHIVE_FILES,
) -> None:
    """Unpack the wanted files of a tar archive; the folder that holds config.json becomes `target`.

    Nothing is written outside `target`: absolute names, `..`, links and devices are refused, and
    so is an archive that unpacks to more than the limits.

    Raises:
        CheckpointError: the archive is unsafe, damaged, or holds no checkpoint.
    """
    written = files = 0
    raw = target / ".raw"
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = _safe_name(member)
                if not member.isfile() or not is_wanted(name):
                    continue
                written, files = written + member.size, files + 1
                if written > max_bytes or files > max_files:
                    raise CheckpointError(
                        f"the archive unpacks to more than {max_bytes} bytes or {max_files} files"
                    )
                _extract(tar, member, raw / name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CheckpointError(f"the archive is damaged: {error}") from error
    _move_up(raw, target)


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
    if file.exists():
        raise CheckpointError(
            f"the archive holds {member.name!r} twice, and it is unclear which one is meant",
            hint="create the archive again from the checkpoint's folder",
        )
    with source, file.open("xb") as out:
        shutil.copyfileobj(source, out)


def _move_up(raw: Path, target: Path) -> None:
    """Move the content of the topmost folder with a config.json or modules.json to the target."""
    folders = [f.parent for name in ("modules.json", "config.json") for f in raw.rglob(name)]
    if not folders:
        raise CheckpointError("the archive holds no config.json")
    top = min(folders, key=lambda folder: (len(folder.parts), str(folder)))
    for item in top.iterdir():
        item.rename(target / item.name)
    shutil.rmtree(raw, ignore_errors=True)
