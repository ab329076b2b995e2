"""The JSON files of a checkpoint, parsed and kept so that each is read once."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError


class _Absent(Enum):
    """In place of the content of a file that is missing; itself again after it was pickled."""

    ABSENT = 0


_ABSENT = _Absent.ABSENT


# Hints of several errors.
DOWNLOAD_AGAIN = "download the checkpoint again: the file is damaged or incomplete"
NAME_CHECKPOINT = "name a directory or repository that holds a transformers checkpoint"


class CheckpointFiles:
    """The JSON files below one directory, each parsed when it is first used.

    Args:
        path: the checkpoint's directory, with modules.json or config.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parsed: dict[Path, Any] = {}

    @property
    def folder(self) -> Path:
        """The directory of the encoder's own files: `path`, or a folder that modules.json names.

        Raises:
            CheckpointError: modules.json is damaged.
        """
        for entry in self.modules:
            if str(entry.get("type", "")).endswith(".Transformer"):
                return self.path / _folder_of(entry)
        return self.path

    @property
    def module_folders(self) -> tuple[Path, ...]:
        """The directories of the modules after the encoder, in order."""
        folders = (self.path / _folder_of(entry) for entry in self.modules)
        encoder_folders = (self.path, self.folder)
        return tuple(folder for folder in folders if folder not in encoder_folders)

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The entries of modules.json, [] if there is no such file.

        Raises:
            CheckpointError: it lists no modules, or one outside the checkpoint.
        """
        listing = self.path / "modules.json"
        entries = self._value(listing)
        if entries is _ABSENT:
            return []
        if (
            not isinstance(entries, list)
            or not entries
            or not all(isinstance(entry, dict) for entry in entries)
        ):
            raise CheckpointError(f"{listing} holds no list of modules", hint=DOWNLOAD_AGAIN)
        for entry in entries:
            folder = Path(_folder_of(entry))
            if folder.is_absolute() or ".." in folder.parts:
                raise CheckpointError(f"{listing} names {str(folder)!r}, outside the checkpoint")
        return entries

    def json(self, file: Path) -> dict[str, Any]:
        """The object in a JSON file, {} if there is no such file.

        Raises:
            CheckpointError: the file is not a JSON object.
        """
        content = self._value(file)
        if content is _ABSENT:
            return {}
        if not isinstance(content, dict):
            raise CheckpointError(f"{file} is not a JSON object", hint=DOWNLOAD_AGAIN)
        return content

    def canonical(self, file: Path) -> bytes:
        """A JSON file in a form that does not depend on white space and the order of keys."""
        # Not kept: tokenizer.json may have tens of megabytes, and nothing else reads it here.
        content = parse_json(file) if file.name == "tokenizer.json" else self._value(file)
        return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()

    def _value(self, file: Path) -> Any:
        if file not in self._parsed:
            self._parsed[file] = parse_json(file) if file.is_file() else _ABSENT
        return self._parsed[file]


def parse_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: the file is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise CheckpointError(f"{file} is not valid JSON: {error}", hint=DOWNLOAD_AGAIN) from error


def _folder_of(entry: dict[str, Any]) -> str:
    return str(entry.get("path") or "")
