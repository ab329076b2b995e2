"""An adapter and its base as one checkpoint.

transformers takes the weights beside an adapter for its base, else the model that
adapter_config.json names. That second case is made the first: a directory of links in the cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

from pipeline.encoder.checkpoint.choose_weights import is_small
from pipeline.encoder.checkpoint.download import cache_errors, digest
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.shown import shown
from pipeline.encoder.checkpoint.weight_files import (
    ADAPTER_NAME,
    INDEX_NAME,
    TOKEN_HEADS,
    WEIGHTS_NAME,
    weight_names,
)
from pipeline.errors import CheckpointError

BESIDE = "the weights beside it"


def with_base(
    files: CheckpointFiles,
    cache: Path,
    find: Callable[[str, str | None], tuple[Path, str]],
    *,
    hub: bool,
) -> tuple[CheckpointFiles, str]:
    """A checkpoint with its weights; `files` themselves if they hold them.

    Args:
        files: of the checkpoint, maybe an adapter.
        cache: for the directory of links.
        find: the base's directory, and what a user knows it by, by the name and revision in
            adapter_config.json.
        hub: whether the checkpoint is from the hub, where weights beside an adapter are not read.

    Returns:
        The files, and what the base is; "" if the checkpoint is not an adapter.

    Raises:
        CheckpointError: the base cannot be found, or has no weights of its own.
    """
    if files.adapter_config is None:
        return files, ""
    files.adapter_file  # noqa: B018 - raises where its tensors are missing or a pickle
    if not hub and _has_weights(files):
        return files, BESIDE
    settings = files.json(files.adapter_config)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision") or None
    if not _is_name(name) or not (revision is None or _is_name(revision)):
        raise CheckpointError(
            f"{files.adapter_config} names no base: base_model_name_or_path = {shown(name)}, "
            f"revision = {shown(revision)}",
            hint="put config.json and the weights of its base into the same directory",
        )
    base, known_as = find(name, revision)
    base_files = CheckpointFiles(base)
    if base_files.adapter_config is not None or not (base / "config.json").is_file():
        raise CheckpointError(
            f"{files.adapter_config} names the base {shown(name)}, which is itself an adapter or "
            "has no config.json",
            hint="put config.json and the weights of its base into the same directory",
        )
    return CheckpointFiles(_linked(files, base_files, cache)), known_as


def _is_name(value: object) -> TypeGuard[str]:
    """Whether a stranger's value can be a name; one of a home directory is not its to give."""
    named = isinstance(value, str) and bool(value) and value.isprintable()
    return named and not str(value).startswith("~")


def _has_weights(files: CheckpointFiles) -> bool:
    config = files.folder / "config.json"
    explicit = files.json(config).get("transformers_weights")
    exists = weight_names(files.folder, explicit, lambda name: (files.folder / name).is_file())
    return config.is_file() and bool(exists)


def _linked(files: CheckpointFiles, base: CheckpointFiles, cache: Path) -> Path:
    """A directory of links to an adapter's own files, and to its base's config, weights and heads
    of tokens.
    """
    links: dict[Path, Path] = {}
    weights = (ADAPTER_NAME, WEIGHTS_NAME, *TOKEN_HEADS)
    folder = files.folder.relative_to(files.path)
    for source in {files.path, files.folder, *files.module_folders}:
        for file in source.iterdir() if source.is_dir() else ():
            wanted = is_small(file.name) or file.name in weights
            if wanted and file.is_file():
                links[file.relative_to(files.path)] = file
    for own in ("config.json", WEIGHTS_NAME, INDEX_NAME):
        links.pop(folder / own, None)
    has_tokenizer = any(_is_tokenizers(name) for name in links if name.parent == folder)
    shared = [base.path / "config.json", *base.weight_files]
    shared += base.path.glob("*.safetensors.index.json")
    heads = (base.path / name for name in TOKEN_HEADS if folder / name not in links)
    shared += filter(Path.is_file, heads)
    if not has_tokenizer:
        shared += [file for file in base.path.iterdir() if _is_tokenizers(file)]
    links.update({folder / file.name: file for file in shared})
    names = [f"{name}\0{file.absolute()}" for name, file in sorted(links.items())]
    placed = cache / "adapters" / digest(*names)
    with cache_errors(cache):
        if not placed.is_dir():
            _place(links, placed)
    return placed


def _is_tokenizers(file: Path) -> bool:
    """Whether a small file belongs to a tokenizer, by its name."""
    names = (
        "tokenizer",
        "vocab",
        "merges",
        "special_tokens",
        "added_tokens",
        "spiece",
        "sentencep",
    )
    return is_small(file.name) and file.name.startswith(names)


def _place(links: dict[Path, Path], placed: Path) -> None:
    placed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=placed.parent, prefix=".partial-") as partial:
        staged = Path(partial) / "model"
        for name, file in links.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).symlink_to(file.absolute())
        try:
            staged.rename(placed)
        except OSError:
            if not placed.is_dir():  # otherwise another process was first, with the same links
                raise
