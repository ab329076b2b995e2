"""Delta and Iceberg tables, written by their own libraries; what those lack is written by hand."""

from __future__ import annotations

import io
import json
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.io import load_file_io
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from pyroaring import BitMap, BitMap64

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


class Folder(MetastoreCatalog):
    """A catalog of the tables below a directory; one in a database would need SQLAlchemy."""

    def __init__(self, root: Path) -> None:
        super().__init__("folder", warehouse=str(root))
        self._root = root
        self._current: dict[tuple[str, ...], Table] = {}

    def create_table(
        self,
        identifier: Any,
        schema: Any,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: Any = UNSORTED_SORT_ORDER,
        properties: Any = None,
    ) -> Table:
        location = location or str(self._root / identifier)
        metadata = new_table_metadata(
            self._convert_schema_if_needed(schema), partition_spec, sort_order, location,
            properties or {},
        )  # fmt: skip
        path = f"{location}/metadata/00000-{uuid.uuid4()}.metadata.json"
        files = load_file_io(location=location)
        self._write_metadata(metadata, files, path)
        table = Table((identifier,), metadata, path, files, self)
        self._current[table.name()] = table
        return table

    def load_table(self, identifier: Any) -> Table:
        return self._current[self.identifier_to_tuple(identifier)]

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        now = self._update_and_stage_table(
            self._current[table.name()], table.name(), requirements, updates
        )
        self._write_metadata(now.metadata, now.io, now.metadata_location)
        self._current[table.name()] = Table(
            table.name(), now.metadata, now.metadata_location, now.io, self
        )
        return CommitTableResponse(
            metadata=now.metadata, metadata_location=now.metadata_location
        )  # fmt: skip


Folder.__abstractmethods__ = frozenset()  # views, namespaces and the like: not needed here


class _DeleteManifest(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _DeleteFiles(_FastAppendFiles):
    """A commit of files of deletes, which pyiceberg reads and does not write."""

    def _manifests(self) -> list[ManifestFile]:
        files, self._added_data_files = self._added_data_files, []
        found = list(super()._manifests())
        self._added_data_files = files
        spec = self._transaction.table_metadata.spec()
        with _DeleteManifest(
            spec, self._transaction.table_metadata.schema(), self.new_manifest_output(),
            self._snapshot_id, "null",
        ) as writer:  # fmt: skip
            for file in files:
                writer.add_entry(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=self._snapshot_id,
                        sequence_number=None,
                        file_sequence_number=None,
                        data_file=file,
                    )
                )
        return [writer.to_manifest_file(), *found]


def data_paths(table: Table) -> list[str]:
    """The data files of the current snapshot, in order of their names."""
    return sorted(task.file.file_path for task in table.scan().plan_files())


def delete_rows(
    table: Table,
    rows: Mapping[str, Sequence[int]],
    *,
    kind: str = "positions",
    partition: Record | None = None,
) -> None:
    """Delete rows of data files by a file of deletes: "positions", "vectors" or "equality"."""
    content, form = DataFileContent.POSITION_DELETES, FileFormat.PARQUET
    if kind == "vectors":
        data, form = _puffin(rows), FileFormat.PUFFIN
    else:
        pairs = [(path, row) for path, numbers in rows.items() for row in numbers]
        sink = io.BytesIO()
        paths, numbers = zip(*pairs, strict=True)
        pq.write_table(pa.table({"file_path": paths, "pos": pa.array(numbers, pa.int64())}), sink)
        data = sink.getvalue()
    if kind == "equality":
        content = DataFileContent.EQUALITY_DELETES
    path = f"{table.location()}/data/{uuid.uuid4()}.{form.value.lower()}"
    with table.io.new_output(path).create() as out:
        out.write(data)
    file = DataFile.from_args(
        content=content, file_path=path, file_format=form, partition=partition or Record(),
        record_count=1, file_size_in_bytes=len(data), column_sizes={}, value_counts={},
        null_value_counts={}, nan_value_counts={}, lower_bounds={}, upper_bounds={},
        key_metadata=None, split_offsets=[], sort_order_id=None, spec_id=table.spec().spec_id,
        equality_ids=[1] if kind == "equality" else None,
    )  # fmt: skip
    file.spec_id = table.spec().spec_id
    with table.transaction() as change:
        from pyiceberg.table.snapshots import Operation

        commit = _DeleteFiles(Operation.OVERWRITE, change, table.io)
        commit.append_data_file(file)
        commit.commit()


def _puffin(rows: Mapping[str, Sequence[int]]) -> bytes:
    body, blobs = b"PFA1", []
    for path, numbers in rows.items():
        vector = b"\xd1\xd3\x39\x64" + struct.pack("<Q", 1) + struct.pack("<I", 0)
        vector += BitMap(numbers).serialize()
        blob = struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
        blobs.append({
            "type": "deletion-vector-v1", "fields": [2147483645], "snapshot-id": -1,
            "sequence-number": -1, "offset": len(body), "length": len(blob),
            "properties": {"referenced-data-file": path, "cardinality": str(len(numbers))},
        })  # fmt: skip
        body += blob
    footer = json.dumps({"blobs": blobs, "properties": {}}).encode()
    return body + b"PFA1" + footer + struct.pack("<I", len(footer)) + bytes(4) + b"PFA1"


def delta_log(table: Path) -> list[dict[str, Any]]:
    """The actions of the newest commit."""
    newest = max((table / "_delta_log").glob("*.json"))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def commit(table: Path, *actions: dict[str, Any]) -> None:
    """Write the next commit of a Delta table, as other engines do."""
    log = table / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    name = f"{len(list(log.glob('*.json'))):020}.json"
    (log / name).write_text("\n".join(map(json.dumps, actions)))


def delta_field(name: str, kind: Any, physical: str = "", number: int = 0) -> dict[str, Any]:
    """A field of a Delta schema; with a physical name, of a table with column mapping."""
    metadata = {"delta.columnMapping.physicalName": physical, "delta.columnMapping.id": number}
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata if physical else {}}


def delta_metadata(
    fields: Sequence[dict[str, Any]], *, partition: Sequence[str] = (), **configuration: str
) -> dict[str, Any]:
    """The metaData action of a table; `mode` is that of its column mapping."""
    settings = {f"delta.columnMapping.{name}": value for name, value in configuration.items()}
    return {"metaData": {
        "id": str(uuid.UUID(int=1)), "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": list(fields)}),
        "partitionColumns": list(partition), "configuration": settings, "createdTime": 1,
    }}  # fmt: skip


def delta_protocol(*features: str) -> dict[str, Any]:
    """The protocol action of a table that uses features."""
    return {"protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": list(features),
        "writerFeatures": list(features),
    }}  # fmt: skip


def delta_add(
    table: Path, name: str, *, deleted: Sequence[int] = (), **partition: str | None
) -> dict[str, Any]:
    """The add action of a file; its `deleted` rows are written as a deletion vector."""
    action: dict[str, Any] = {
        "path": quote(name), "partitionValues": partition, "dataChange": True,
        "size": (table / name).stat().st_size, "modificationTime": 1,
        "stats": json.dumps({"numRecords": pq.read_metadata(table / name).num_rows}),
    }  # fmt: skip
    if deleted:
        action["deletionVector"] = _vector(table, deleted)
    return {"add": action}


def _vector(table: Path, rows: Sequence[int]) -> dict[str, Any]:
    payload = struct.pack("<I", 1681511377) + BitMap64(rows).serialize()
    name = uuid.uuid4()
    framed = struct.pack(">I", len(payload)) + payload + struct.pack(">I", zlib.crc32(payload))
    (table / f"deletion_vector_{name}.bin").write_bytes(b"\x01" + framed)
    return {
        "storageType": "u", "pathOrInlineDv": _z85(name.bytes), "offset": 1,
        "sizeInBytes": len(payload), "cardinality": len(rows),
    }  # fmt: skip


def _z85(data: bytes) -> str:
    text = ""
    for (value,) in struct.iter_unpack(">I", data):
        text += "".join(_Z85[value // 85**power % 85] for power in range(4, -1, -1))
    return text


def delta_rows(table: Path) -> pa.Table:
    """The rows of a Delta table as delta-rs reads them, in order of their first column."""
    rows = pl.from_arrow(pa.RecordBatchReader.from_stream(DeltaTable(table).scan()))
    assert isinstance(rows, pl.DataFrame)
    return rows.sort(rows.columns[0]).to_arrow()


def upload(folder: Path, to: str, put: Callable[[str, bytes], object]) -> str:
    """Copy a table to a store, and return its URI there."""
    for path in sorted(folder.rglob("*")):
        with suppress(IsADirectoryError):
            put(f"{to}/{path.relative_to(folder)}", path.read_bytes())
    return to
