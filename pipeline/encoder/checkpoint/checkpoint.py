"""From a model's name, directory or URI to local files and their hashes.

Nothing here imports torch, unpickles, or runs code of a checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.encoder.checkpoint.adapter_base import with_base
from pipeline.encoder.checkpoint.bounds import MAX_VOCABULARY_BYTES
from pipeline.encoder.checkpoint.config_values import Config
from pipeline.encoder.checkpoint.download import fetch, is_archive, is_uri, sha256_of
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.hub import from_hub
from pipeline.encoder.checkpoint.read_json import NAME_CHECKPOINT, opened, read_bounded
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError, UsageError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_NAME_A_MODEL = "give an existing directory, a name such as BAAI/bge-base-en-v1.5, or a URI"

_PIECE_BYTES = 1024**2

# Tokenizer files that change what a checkpoint computes.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# Files that a tokenizer is built from if there is no tokenizer.json.
VOCABULARY_FILES = (
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
_SLOW_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    *VOCABULARY_FILES,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose files are local and hashed."""

    name: str  # as the user gave it
    path: Path
    revision: str  # commit on the hub, "" if the model is not from there
    sha256: str  # of the weights
    fingerprint: str  # of config, tokenizer and module files
    files: CheckpointFiles = field(compare=False, repr=False)
    base: str = ""  # what the base of an adapter is, "" if the model is none

    @property
    def folder(self) -> Path:
        """The directory of config.json, tokenizer and weights."""
        return self.files.folder

    @property
    def last_part(self) -> str:
        """The last part of the name, path or URI, without an archive's suffix.

        A copy in a directory, a store or an archive has it too.
        """
        last = self.name.partition("?")[0].rstrip("/").rpartition("/")[2]
        return re.sub(r"\.(tar\.gz|tgz|tar)$", "", last)

    @property
    def config(self) -> Config:
        """The parsed config.json; {} of a StaticEmbedding, which needs none."""
        return self.files.json(self.folder / "config.json")


def resolve(
    model: str,
    revision: str | None = None,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    kind: str = "",
) -> Checkpoint:
    """Find a model and hash it.

    Args:
        model: a directory, a name on the Hugging Face hub, a URI of a directory (s3://, gs://,
            az://), or a URI or path of a .tar.gz.
        revision: branch, tag or commit on the hub; None or "" for its main branch.
        cache_dir: for downloads, digests and the lists of files of complete hub snapshots; None for
            ~/.cache/bei-jobs.
        offline: never touch the network.
        kind: of text, where a Router has modules for each: see `CheckpointFiles`.

    Raises:
        CheckpointError: the model cannot be found, fetched or read.
        UsageError: the name is empty, a revision was given for something that has none, or the
            model does not tell kinds of text apart.
    """
    if not model:
        raise UsageError("the name of the model is empty", hint=_NAME_A_MODEL)
    cache = cache_dir or Path.home() / ".cache" / "bei-jobs"
    revision = revision or None
    path, commit = _find(model, revision, cache, offline)

    def base(name: str, revision: str | None) -> tuple[Path, str]:
        return _find_base(name, revision, cache, offline, from_hub=bool(commit))

    files, base_name = with_base(CheckpointFiles(path, kind), cache, base, hub=bool(commit))
    return read_checkpoint(model, files, commit, cache, base_name)


def _find(model: str, revision: str | None, cache: Path, offline: bool) -> tuple[Path, str]:
    """The directory of a model, and its commit if it is from the hub."""
    directory = Path(model).expanduser()
    if directory.is_dir() or is_uri(model) or is_archive(model):
        if revision is not None:
            raise UsageError(
                f"{model} is not a name on the hub, so it has no revision {revision!r}",
                hint="omit --revision, or name the model as on the hub",
            )
        path = directory if directory.is_dir() else fetch(model, cache, offline=offline)
        return path, ""
    if directory.is_file():
        raise CheckpointError(f"{model} is a file, and no model", hint=_NAME_A_MODEL)
    if not is_hub_name(model):
        raise CheckpointError(
            f"{model} is neither a directory nor a name on the hub", hint=_NAME_A_MODEL
        )
    return from_hub(model, revision, cache=cache, offline=offline)


def _find_base(
    name: str, revision: str | None, cache: Path, offline: bool, *, from_hub: bool
) -> tuple[Path, str]:
    """The base that an adapter names; one from the hub may only name another on the hub."""
    if from_hub and not is_hub_name(name):
        raise CheckpointError(
            f"the adapter names the base {shown(name)}, which is not on the hub",
            hint="download the adapter, and put config.json and the weights of its base beside it",
        )
    try:
        path, commit = _find(name, revision if is_hub_name(name) else None, cache, offline)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of the adapter: {error.message}",
            hint="put config.json and the weights of its base into the adapter's directory; or "
            f"{error.hint}",
        ) from error
    return path, f"{name} at {commit}" if commit else name


def is_hub_name(model: str) -> bool:
    """Whether a model is a name on the hub, not a directory, URI or archive."""
    if Path(model).expanduser().is_dir() or is_uri(model) or is_archive(model):
        return False
    return _HUB_NAME.fullmatch(model) is not None and not model.startswith(".")


def read_checkpoint(
    name: str, files: CheckpointFiles, revision: str, cache: Path, base: str = ""
) -> Checkpoint:
    """Read and hash the files of a local checkpoint.

    Raises:
        CheckpointError: config.json or the weights are missing or unreadable.
    """
    path, folder = files.path, files.folder
    if not (folder / "config.json").is_file() and not files.static:
        raise CheckpointError(
            f"{folder} has no config.json",
            hint=NAME_CHECKPOINT,
        )
    files.tensors  # noqa: B018 - refuses headers that lie before a byte is hashed
    adapter = [file for file in [files.adapter_file] if file]
    digests = [sha256_of(file, cache / "digests") for file in [*files.weight_files, *adapter]]
    sha256 = digests[0]
    if len(digests) > 1:
        sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
    checkpoint = Checkpoint(name, path, revision, sha256, fingerprint(files), files, base)
    checkpoint.config  # noqa: B018 - raises now, not when it is first used
    return checkpoint


def fingerprint(files: CheckpointFiles) -> str:
    """Hash of every file, except the weights, that changes what a checkpoint computes.

    JSON is hashed by content, so that white space and the order of keys do not matter.
    """
    path, folder = files.path, files.folder
    fast = (folder / "tokenizer.json").is_file()
    names = _TOKENIZER_FILES if fast else _SLOW_TOKENIZER_FILES
    hashed = [folder / name for name in ("config.json", *names)]
    hashed += sorted(folder.glob("sentence_*_config.json"))
    hashed += [path / "modules.json", path / "config_sentence_transformers.json"]
    if (router := files.router) is not None:
        hashed.append(router.file)
    for module in files.module_folders:
        hashed += [module / "config.json", module / "model.safetensors"]
    hashed += [files.adapter_config] if files.adapter_config else []
    total = hashlib.sha256()
    for file in hashed:
        if file.suffix == ".safetensors" and file.is_file():
            _hash_weights(files, file, total)
        elif file.is_file():
            json = file.suffix == ".json"
            content = files.canonical(file) if json else read_bounded(file, MAX_VOCABULARY_BYTES)
            total.update(f"{file.relative_to(path)}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()


def _hash_weights(files: CheckpointFiles, file: Path, total: hashlib._Hash) -> None:
    """Add a module's weights to a hash, a piece at a time."""
    files.header(file)  # refused before it is read
    with opened(file) as (handle, size):
        total.update(f"{file.relative_to(files.path)}\0{size}\0".encode())
        while piece := handle.read(_PIECE_BYTES):
            total.update(piece)
