"""Let transformers build a tokenizer, in a process of its own, from files that were checked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint import tokenizer_builder
from pipeline.encoder.checkpoint.bounds import MAX_VOCABULARY_BYTES
from pipeline.encoder.checkpoint.checkpoint import VOCABULARY_FILES, Checkpoint
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, opened, read_bounded, read_json
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.encoder.checkpoint.tokenizer_check import check_tokenizer
from pipeline.encoder.checkpoint.tokenizer_outline import outline
from pipeline.errors import CheckpointError

# Building ends itself by CPU time; this is for a machine that stands still.
_TIMEOUT_S = 600
_ADD_TOKENIZER = "add the tokenizer.json that save_pretrained of a fast tokenizer writes"
_ADD_SENTENCEPIECE = "pip install 'bei-jobs[sentencepiece]', or add a tokenizer.json"
# Its files begin with the field of their pieces; those of tiktoken are text.
_SENTENCEPIECE_START = b"\n"
# Never code of the checkpoint, and nothing that is read of templates of chats.
_LEFT_OUT = ("auto_map", "chat_template")


@dataclass(frozen=True, slots=True)
class BuiltTokenizer:
    """A tokenizer as transformers built it, and the settings that its JSON does not hold."""

    json: bytes
    truncation_side: str
    passes_types: bool  # whether token types are passed to the model
    splits_special_tokens: bool


def build_tokenizer(
    checkpoint: Checkpoint, *, as_it_is: bool, options: Mapping[str, Any]
) -> BuiltTokenizer:
    """Build the tokenizer of a checkpoint as AutoTokenizer does, without its code.

    Args:
        checkpoint: whose files are read.
        as_it_is: take the class that keeps tokenizer.json as it is, whatever the files name.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: there is no vocabulary, or transformers cannot build a tokenizer of it.
    """
    request = {
        "model_type": str(checkpoint.config.get("model_type", "")),
        "tokenizer_class": checkpoint.config.get("tokenizer_class"),
        "name": checkpoint.name,
        "as_it_is": as_it_is,
        "options": dict(options),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "files", Path(scratch) / "built"
        folder.mkdir()
        out.mkdir()
        _stage(checkpoint, folder)
        problem = _run(folder, out, request)
        if problem is not None:
            raise _refused(checkpoint, folder, problem)
        file = out / "tokenizer.json"
        check_tokenizer(file, outline(read_json(file), file), checkpoint.folder)
        settings = read_json(out / "settings.json")
        return BuiltTokenizer(
            read_bounded(file, MAX_VOCABULARY_BYTES),
            str(settings["truncation_side"]),
            bool(settings["passes_types"]),
            bool(settings["split_special_tokens"]),
        )


def _stage(checkpoint: Checkpoint, folder: Path) -> None:
    """Put the files that a tokenizer is made of into an empty folder, each of them bounded."""
    files, source = checkpoint.files, checkpoint.folder
    config = files.json(source / "tokenizer_config.json")
    _write(folder, "tokenizer_config.json", {k: v for k, v in config.items() if k not in _LEFT_OUT})
    kept = ("model_type", "tokenizer_class", "transformers_version")
    _write(folder, "config.json", {k: v for k, v in checkpoint.config.items() if k in kept})
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (source / name).is_file():
            _write(folder, name, files.json(source / name))
    parts = files.tokenizer
    if parts is not None and not parts.model:
        raise CheckpointError(
            f"{source / 'tokenizer.json'} is not a tokenizer: it has no model", hint=DOWNLOAD_AGAIN
        )
    whole = parts is not None
    names = ("tokenizer.json",) if whole else (*VOCABULARY_FILES, "merges.txt")
    for name in names:
        if (source / name).is_file():
            with opened(source / name) as (_, size):
                pass
            if size > MAX_VOCABULARY_BYTES:
                read_bounded(source / name, MAX_VOCABULARY_BYTES)  # raises
            if not size:
                raise CheckpointError(f"{source / name} is empty", hint=DOWNLOAD_AGAIN)
            (folder / name).symlink_to((source / name).resolve())
    if not whole and not any((folder / name).is_file() for name in VOCABULARY_FILES):
        # transformers would build a tokenizer without a vocabulary.
        raise CheckpointError(
            f"{source} has neither tokenizer.json nor a vocabulary", hint=_ADD_TOKENIZER
        )
    _check_sentencepiece(source, folder)


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _check_sentencepiece(source: Path, folder: Path) -> None:
    """Raise where a vocabulary needs a library that is not there."""
    others = [name for name in ("tokenizer.json", "vocab.txt", "vocab.json") if _has(folder, name)]
    models = [name for name in VOCABULARY_FILES if name.endswith(".model") and _has(folder, name)]
    if others or not models:
        return
    with opened(folder / models[0]) as (handle, _):
        start = handle.read(1)
    needed = ("sentencepiece", "google.protobuf") if start == _SENTENCEPIECE_START else ()
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        raise CheckpointError(
            f"{source} has no tokenizer.json but {models[0]}, which needs sentencepiece, and "
            f"{' and '.join(name.rpartition('.')[2] for name in missing)} is not installed",
            hint=_ADD_SENTENCEPIECE,
        )


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # of its parent
        return False


def _run(folder: Path, out: Path, request: Mapping[str, Any]) -> str | None:
    """Run the builder; what went wrong, None for nothing."""
    try:
        done = subprocess.run(
            # -P: the modules beside the script are not for import.
            [sys.executable, "-P", tokenizer_builder.__file__, str(folder), str(out)],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it uses up the time that it may have"
    if done.returncode == 0:
        return None
    said = done.stdout.decode("utf-8", "replace").rpartition("\0")[2].strip()
    return said or "it uses up the time or the memory that it may have"


def _refused(checkpoint: Checkpoint, folder: Path, problem: str) -> CheckpointError:
    reason = one_line(problem.replace(str(folder), str(checkpoint.folder)))
    if (folder / "tokenizer.json").is_file():
        return CheckpointError(
            f"transformers cannot build the tokenizer that {checkpoint.folder} describes: {reason}",
            hint="check tokenizer_config.json, special_tokens_map.json and added_tokens.json",
        )
    return CheckpointError(
        f"{checkpoint.folder} has no tokenizer.json and none can be built: {reason}",
        hint=_ADD_TOKENIZER,
    )
