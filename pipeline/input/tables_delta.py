"""Delta: the files of the current version, from a copy of the log that delta-rs reads.

The log is copied so that delta-rs opens no store: URIs, accounts and retries are those of every
other input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from pipeline.errors import BeiJobsError
from pipeline.input.table_file import Snapshot, TableColumn, TableFile, packed_rows
from pipeline.input.tables_paths import file_of, name_below, not_installed, unreadable
from pipeline.prefetch import map_in_order
from pipeline.store.directory import Directory
from pipeline.store.object_info import ObjectInfo
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOG = "_delta_log/"
_THREADS = 16
_COMMIT = re.compile(rf"{_LOG}(\d{{20}})\.json")
_CHECKPOINT = re.compile(
    rf"{_LOG}(\d{{20}})\.checkpoint(?:\.\d{{10}}\.(\d{{10}})|\.[0-9a-fA-F-]{{36}})?\.(?:parquet|json)"
)
_VECTOR = re.compile(r"(?:.*/)?deletion_vector_[^/]*\.bin")
_MAPPING = "delta.columnMapping."
# Those of readers; what they ask for is done here or by delta-rs, which applies checkpoints.
_FEATURES = frozenset({
    "columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview",
    "v2Checkpoint", "vacuumProtocolCheck",
})  # fmt: skip
_MAX_READER_VERSION = 3


def read_delta(uri: str, infos: Sequence[ObjectInfo]) -> list[tuple[ObjectInfo, TableFile]]:
    """The files of the current version of a table; see `pipeline.input.tables.table_files`."""
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise not_installed(uri, "Delta", "deltalake") from error
    by_name = {info.name: info for info in infos}
    with TemporaryDirectory(prefix="bei-jobs-") as folder:
        _copy(uri, _log_names(by_name), folder)
        try:
            table = DeltaTable(folder)
            _check_protocol(uri, table)
            vectors = "deletionVectors" in (table.protocol().reader_features or ())
            if vectors:
                _copy(uri, filter(_VECTOR.fullmatch, by_name), folder)
            deleted = _deleted(table, folder) if vectors else {}
            return list(_files(uri, table, deleted, by_name))
        except BeiJobsError:
            raise
        except BaseException as error:
            # Where a log is damaged, Rust may panic, which is no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            problem = str(error).replace(folder, redact(uri))
            raise unreadable(uri, "Delta", problem) from error


def _log_names(names: Iterable[str]) -> list[str]:
    """The newest whole checkpoint, and the commits since.

    Not `_last_checkpoint`, which is a hint and may name an older one.
    """
    checkpoints: dict[tuple[int, int, str], list[str]] = {}  # version, parts, name of a single one
    commits: list[tuple[int, str]] = []
    sidecars = []
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            key = int(match[1]), int(match[2] or 1), "" if match[2] else name
            checkpoints.setdefault(key, []).append(name)
        elif match := _COMMIT.fullmatch(name):
            commits.append((int(match[1]), name))
        elif name.startswith(f"{_LOG}_sidecars/"):
            sidecars.append(name)
    whole = {key: parts for key, parts in checkpoints.items() if len(parts) == key[1]}
    newest = max((version for version, _, _ in whole), default=-1)
    chosen = [name for key, parts in whole.items() if key[0] == newest for name in parts]
    return [*chosen, *sidecars, *(name for version, name in commits if version >= newest)]


def _copy(uri: str, names: Iterable[str], folder: str) -> None:
    def copy(name: str) -> None:
        path = Path(folder, name_below(uri, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Directory(uri).read(name))

    for _ in map_in_order(copy, iter(names), _THREADS):
        pass


def _check_protocol(uri: str, table: DeltaTable) -> None:
    protocol = table.protocol()
    others = sorted(set(protocol.reader_features or ()) - _FEATURES)
    if protocol.min_reader_version > _MAX_READER_VERSION:
        others = [f"version {protocol.min_reader_version} of the protocol"]
    if others:
        raise unreadable(uri, "Delta", f"it uses {', '.join(others)}")


def _deleted(table: DeltaTable, folder: str) -> dict[str, str]:
    """Path → its deleted rows."""
    found, root = {}, f"/{Path(folder).name}/"
    for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()):
        for path, kept in zip(batch["filepath"], batch["selection_vector"], strict=True):
            rows = np.flatnonzero(~kept.values.to_numpy(zero_copy_only=False))
            name = unquote(path.as_py().partition(root)[2] or path.as_py())
            found[name] = packed_rows(rows.astype(np.int64))
    return found


def _files(
    uri: str, table: DeltaTable, deleted: Mapping[str, str], infos: Mapping[str, ObjectInfo]
) -> Iterator[tuple[ObjectInfo, TableFile]]:
    schema = pa.schema(table.schema().to_arrow())
    actions = pa.table(table.get_add_actions())
    mode = table.metadata().configuration.get(f"{_MAPPING}mode") or "none"
    columns = {one.name: _column(one, mode) for one in schema}
    values: dict[str, list[str | None]] = {}  # of the columns that partition the table, by file
    for name in table.metadata().partition_columns:
        texts = _texts(actions["partition"].combine_chunks().field(name))
        problem = "" if texts is not None else "its values cannot be read from the log"
        columns[name] = replace(columns[name], constant=True, problem=problem)
        values[name] = texts or []
    snapshot = Snapshot(uri, "Delta", f"version {table.version()}", tuple(schema.names))
    paths = [unquote(path) for path in actions["path"].to_pylist()]
    if len(set(paths)) < len(paths):
        raise unreadable(uri, "Delta", "its log names a file twice")
    for row, path in enumerate(paths):
        info = file_of(uri, name_below(uri, path), infos)
        of_file = {name: texts[row] for name, texts in values.items() if texts}
        yield info, TableFile(snapshot, tuple(columns.values()), of_file, deleted.get(path, ""))


def _column(one: pa.Field, mode: str) -> TableColumn:
    """A column by the name or the id that it has in files."""
    metadata: dict[bytes, bytes] = one.metadata or {}
    if mode == "none":
        return TableColumn(one.name, one.type, names=(one.name,))
    problem = "" if _plain_names(one.type) else "nested fields have other names in the files"
    if mode == "id":
        number = int(metadata[f"{_MAPPING}id".encode()])
        return TableColumn(one.name, one.type, id=number, problem=problem)
    physical = metadata[f"{_MAPPING}physicalName".encode()].decode()
    return TableColumn(one.name, one.type, names=(physical,), problem=problem)


def _plain_names(kind: pa.DataType) -> bool:
    """Whether the fields of structs, at any depth, have one name in the table and its files."""
    if pa.types.is_struct(kind):
        key = f"{_MAPPING}physicalName".encode()
        return all(
            (one.metadata or {}).get(key, b"").decode() == one.name and _plain_names(one.type)
            for one in kind
        )
    if pa.types.is_map(kind):
        return _plain_names(kind.key_type) and _plain_names(kind.item_type)
    return not hasattr(kind, "value_type") or _plain_names(kind.value_type)


def _texts(values: pa.Array) -> list[str | None] | None:
    """The values as texts that can be cast back; None where they cannot."""
    try:
        texts = values.cast(pa.string())
        same = texts.cast(values.type).equals(values)
    except (pa.ArrowException, NotImplementedError):
        return None
    return texts.to_pylist() if same else None
