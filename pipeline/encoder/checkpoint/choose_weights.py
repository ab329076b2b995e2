"""Which weight files of a remote checkpoint are downloaded: those that are then read, no others.

Repositories keep further copies of their weights (variants, `consolidated.safetensors`, shards of
an earlier save), which have gigabytes.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.weight_files import (
    ADAPTER_NAME,
    TOKEN_HEADS,
    WEIGHTS_NAME,
    weight_names,
)

# Files of a few megabytes at most: they say which weights are read.
SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "artifact.metadata")
# Other runtimes' copies of a model.
UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "*/onnx/*", "*/openvino/*", "*/coreml/*")


def is_small(name: str) -> bool:
    """Whether a file is downloaded before the weights; `*` matches `/` too, as in the hub."""
    return _matches(name, SMALL) and not _matches(name, UNWANTED)


def is_wanted(name: str) -> bool:
    """Whether a file of an archive is unpacked: a small one, or weights."""
    return is_small(name) or (name.endswith(".safetensors") and not _matches(name, UNWANTED))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def weights_to_fetch(small: Path, listing: Collection[str], *, hub: bool = False) -> list[str]:
    """Names of the weight files that are read, of those that a store lists.

    Args:
        small: a directory with the checkpoint's small files.
        listing: names of all files, relative to the checkpoint.
        hub: whether it is a repository on the hub, where an adapter comes with no weights of its
            base: transformers takes the base that adapter_config.json names.

    Raises:
        CheckpointError: a file that says which weights are read is damaged.
    """
    router = CheckpointFiles(small).router
    names = set(listing)
    wanted: set[str] = set()
    for kind in router.kinds if router else ("",):
        wanted |= _wanted(CheckpointFiles(small, kind), small, names, hub)
    return sorted(wanted & names)


def _wanted(files: CheckpointFiles, small: Path, names: set[str], hub: bool) -> set[str]:
    """Names of the weight files of one kind of text, whether they are there or not."""
    base = PurePosixPath(files.folder.relative_to(small))
    wanted = {str(PurePosixPath(m.relative_to(small)) / WEIGHTS_NAME) for m in files.module_folders}
    wanted.update(str(base / name) for name in TOKEN_HEADS)
    if files.adapter_config is not None:
        wanted.add(str(base / ADAPTER_NAME))
    if files.adapter_config is None or not hub:
        explicit = files.json(files.folder / "config.json").get("transformers_weights")
        read = weight_names(files.folder, explicit, lambda name: str(base / name) in names)
        wanted.update(str(base / name) for name in read)
    return wanted
