"""The JSON files and safetensors headers of a checkpoint, kept so that each is read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.bounds import MAX_MODULES, MAX_NAME_CHARACTERS
from pipeline.encoder.checkpoint.lora import adapted
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, canonical_json, read_json
from pipeline.encoder.checkpoint.router import Router, read_router
from pipeline.encoder.checkpoint.safetensors_headers import (
    TensorInfo,
    merge_headers,
    read_header,
)
from pipeline.encoder.checkpoint.shown import shown
from pipeline.encoder.checkpoint.tokenizer_outline import TokenizerOutline, outline
from pipeline.encoder.checkpoint.weight_files import (
    ADAPTER_CONFIG,
    ADAPTER_NAME,
    no_safetensors,
    weight_files,
)
from pipeline.errors import CheckpointError

# The ends of the types of modules with weights that are read first.
_TABLES = (".StaticEmbedding", ".SparseStaticEmbedding")
_ENCODERS = (".Transformer", ".MLMTransformer", *_TABLES)


class _Absent(Enum):
    """In place of the content of a file that is missing; itself again after it was pickled."""

    ABSENT = 0


_ABSENT = _Absent.ABSENT


class CheckpointFiles:
    """The files below one directory, each parsed when it is first used.

    Args:
        path: the checkpoint's directory, with modules.json or config.json.
        kind: the texts that are read, "query" or "document", where a Router has modules for each;
            "" for its default.
    """

    def __init__(self, path: Path, kind: str = "") -> None:
        self.path = path
        self.asked_kind = kind
        self._parsed: dict[Path, Any] = {}
        self._headers: dict[Path, Mapping[str, TensorInfo]] = {}
        self._outline: TokenizerOutline | None = None

    @property
    def folder(self) -> Path:
        """The directory of the encoder's own files: `path`, or a folder that modules.json names.

        Raises:
            CheckpointError: modules.json is damaged.
        """
        for entry in self.modules:
            if str(entry.get("type", "")).endswith(_ENCODERS):
                return self.path / _folder_of(entry)
        return self.path

    @property
    def static(self) -> bool:
        """Whether the model is a table of token vectors: a StaticEmbedding, or model2vec's files.

        Raises:
            CheckpointError: modules.json or config.json is damaged.
        """
        if self.modules:
            return str(self.modules[0].get("type", "")).endswith(_TABLES)
        return self.json(self.path / "config.json").get("model_type") == "model2vec"

    @property
    def sparse_table(self) -> bool:
        """Whether that table has one weight for each token: a SparseStaticEmbedding.

        Raises:
            CheckpointError: modules.json is damaged.
        """
        modules = self.modules
        return bool(modules) and str(modules[0].get("type")).endswith(_TABLES[1])

    @property
    def splade(self) -> bool:
        """Whether the modules pool the logits of a masked language model.

        Raises:
            CheckpointError: modules.json is damaged.
        """
        return any(str(entry.get("type")).endswith(".SpladePooling") for entry in self.modules)

    @property
    def module_folders(self) -> tuple[Path, ...]:
        """The directories of the modules after the encoder, in order."""
        folders = (self.path / _folder_of(entry) for entry in self.modules)
        encoder_folders = (self.path, self.folder)
        return tuple(folder for folder in folders if folder not in encoder_folders)

    @property
    def router(self) -> Router | None:
        """The Router that modules.json begins with, None if there is none.

        Raises:
            CheckpointError: it is damaged, or not the first module.
        """
        return read_router(self._listed, self.path, self.json)

    @property
    def kind(self) -> str:
        """The kind of text that is read, "" where the modules are the same for all.

        Raises:
            CheckpointError: modules.json or the file of its Router is damaged.
        """
        router = self.router
        return (self.asked_kind or router.default) if router else ""

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The entries of modules.json, those of the kind of text for a Router; [] if there is no
        such file.

        Raises:
            CheckpointError: it lists no modules, or one outside the checkpoint.
        """
        listed = self._listed
        if (router := self.router) is None:
            return listed
        entries = [*router.modules(self.asked_kind), *listed[1:]]
        for entry in entries:
            _check_folder(_folder_of(entry), router.file)
        return entries

    @property
    def _listed(self) -> list[dict[str, Any]]:
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
        if len(entries) > MAX_MODULES:
            raise CheckpointError(
                f"{listing} names {len(entries):,} modules; at most {MAX_MODULES} are computed",
                hint=DOWNLOAD_AGAIN,
            )
        for entry in entries:
            _check_folder(_folder_of(entry), listing)
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

    def header(self, file: Path) -> Mapping[str, TensorInfo]:
        """The tensors of one safetensors file by name.

        Raises:
            CheckpointError: the file is not safetensors.
        """
        if file not in self._headers:
            self._headers[file] = read_header(file)
        return self._headers[file]

    @property
    def adapter_config(self) -> Path | None:
        """The settings of an adapter beside the encoder's own files, None if there are none."""
        file = self.folder / ADAPTER_CONFIG
        return file if file.is_file() else None

    @property
    def adapter_file(self) -> Path | None:
        """The tensors of that adapter.

        Raises:
            CheckpointError: there are settings of one, but no safetensors.
        """
        if self.adapter_config is None:
            return None
        file = self.folder / ADAPTER_NAME
        if not file.is_file():
            raise no_safetensors(self.folder, ADAPTER_NAME)
        return file

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files of the encoder.

        Raises:
            CheckpointError: one is missing, or there are none.
        """
        explicit = self.json(self.folder / "config.json").get("transformers_weights")
        return weight_files(self.folder, explicit)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the encoder's own files under its modern name, shards merged, an adapter
        applied.

        Raises:
            CheckpointError: a file is missing or is not safetensors.
        """
        return self._adapted({})

    def adapted(self, name: str, info: TensorInfo) -> TensorInfo:
        """A tensor that the encoder's own files do not hold by this name, with what an adapter adds
        to it: that of a file beside them, or the embeddings in the place of an output layer.

        Raises:
            CheckpointError: the adapter does not fit it.
        """
        return self._adapted({name: replace(info, lora=None)})[name]

    def _adapted(self, more: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
        """The encoder's tensors and others by name, an adapter applied."""
        merged = merge_headers(self.header(file) for file in self.weight_files)
        tensors = {**merged, **more}
        if self.adapter_config is None or self.adapter_file is None:
            return tensors
        adapter = self.header(self.adapter_file)
        return adapted(tensors, adapter, self.json(self.adapter_config), self.adapter_config)

    @property
    def tokenizer(self) -> TokenizerOutline | None:
        """tokenizer.json without its vocabulary, None if there is no such file.

        Raises:
            CheckpointError: it is not a JSON object.
        """
        file = self.folder / "tokenizer.json"
        if self._outline is None and file.is_file():
            self._outline = outline(read_json(file), file)
        return self._outline

    def canonical(self, file: Path) -> bytes:
        """A JSON file in a form that does not depend on white space and the order of keys.

        Raises:
            CheckpointError: the file is not JSON.
        """
        if file.name != "tokenizer.json":
            return canonical_json(self._value(file), file)
        # Not kept: it may have tens of megabytes, and nothing else reads its vocabulary here.
        content = read_json(file)
        self._outline = outline(content, file)
        return canonical_json(content, file)

    def _value(self, file: Path) -> Any:
        if file not in self._parsed:
            self._parsed[file] = read_json(file) if file.is_file() else _ABSENT
        return self._parsed[file]


def _check_folder(name: str, listing: Path) -> None:
    """Raise a CheckpointError for a module's folder that is not an ordinary one below."""
    folder = Path(name)
    if folder.is_absolute() or ".." in folder.parts:
        raise CheckpointError(f"{listing} names {shown(name)}, outside the checkpoint")
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise CheckpointError(
            f"{listing} names {shown(name)}, which cannot be a folder's name", hint=DOWNLOAD_AGAIN
        )


def _folder_of(entry: dict[str, Any]) -> str:
    return str(entry.get("path") or "")
