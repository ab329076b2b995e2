"""Iceberg: the files of the current snapshot, from the newest metadata, without a catalog.

pyiceberg reads metadata and manifests through our own stores: URIs, accounts and retries are those
of every other input.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BeiJobsError, InputError
from pipeline.input.table_file import Snapshot, TableColumn, TableFile, packed_rows
from pipeline.input.tables_paths import file_of, name_below, not_installed, unreadable
from pipeline.packing import Int64Array
from pipeline.store.directory import Directory
from pipeline.store.object_info import ObjectInfo
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

# v12.metadata.json of tables without a catalog, 00012-<uuid>.metadata.json of those with one.
_METADATA = re.compile(r"metadata/(?:v|0*(?=\d+-))(\d+).*\.metadata\.json(?:\.gz)?")
_HINT = "metadata/version-hint.text"


def read_iceberg(uri: str, infos: Sequence[ObjectInfo]) -> list[tuple[ObjectInfo, TableFile]]:
    """The files of the current snapshot; see `pipeline.input.tables.table_files`."""
    by_name = {info.name: info for info in infos}
    name = _newest_metadata(uri, by_name)
    try:
        table = _open(uri, name)
        return list(_files(uri, table, by_name))
    except ImportError as error:
        raise not_installed(uri, "Iceberg", "pyiceberg") from error
    except BeiJobsError:
        raise
    except Exception as error:
        raise unreadable(uri, "Iceberg", error) from error


def _newest_metadata(uri: str, names: Collection[str]) -> str:
    """The metadata file that is current, as far as files tell.

    Raises:
        InputError: several may be.
    """
    numbers = {name: int(m[1]) for name in names if (m := _METADATA.fullmatch(name))}
    hint = Directory(uri).read(_HINT).decode(errors="replace").strip() if _HINT in names else ""
    hinted = {f"metadata/{hint}", f"metadata/{hint}.metadata.json"} & numbers.keys()
    if hinted:
        return hinted.pop()
    newest = sorted(name for name in numbers if numbers[name] == max(numbers.values()))
    if len(newest) != 1:
        found = ", ".join(newest or sorted(n for n in names if n.count("/") == 1))
        raise InputError(
            f"{redact(uri)} is an Iceberg table of which the files do not tell the current "
            f"metadata: {found}",
            hint=f"write the name of the one that the catalog has into {_HINT}, below the table",
        )
    return newest[0]


def _open(uri: str, metadata: str) -> Table:
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import Table

    class _Input(InputFile):
        def __init__(self, location: str, name: str) -> None:
            super().__init__(location)
            self._name = name

        def __len__(self) -> int:
            return Directory(uri).info(self._name).size

        def exists(self) -> bool:
            return Directory(uri).exists(self._name)

        def open(self, seekable: bool = True) -> InputStream:
            return io.BytesIO(Directory(uri).read(self._name))

    class _Files(FileIO):
        """The files of the table, and no others."""

        location = ""

        def new_input(self, location: str) -> _Input:
            return _Input(location, name_below(uri, location, self.location))

        def new_output(self, location: str) -> OutputFile:
            raise NotImplementedError

        def delete(self, location: str | InputFile | OutputFile) -> None:
            raise NotImplementedError

    files = _Files()
    try:
        found = FromInputFile.table_metadata(files.new_input(metadata))
    except BeiJobsError:
        raise
    except Exception as error:  # of pyiceberg, of pydantic, or of what they read
        raise unreadable(uri, "Iceberg", f"{metadata} is damaged") from error
    files.location = found.location
    return Table(("table",), found, metadata, files, NoopCatalog("none"))


def _files(
    uri: str, table: Table, infos: Mapping[str, ObjectInfo]
) -> Iterator[tuple[ObjectInfo, TableFile]]:
    current = table.current_snapshot()
    if current is None:
        return
    columns = _columns(table)
    names = tuple(column.name for column in columns)
    snapshot = Snapshot(uri, "Iceberg", f"snapshot {current.snapshot_id}", names)
    by_id = {column.id: column for column in columns}
    deletes = _Deletes(uri, table)
    for task in table.scan().plan_files():
        file = task.file
        if file.file_format.value != "PARQUET":
            raise unreadable(uri, "Iceberg", f"{file.file_path} is {file.file_format.value}")
        spec = table.specs()[file.spec_id]
        values: dict[str, str | None] = {}
        of_file = columns
        for place, one in enumerate(spec.fields):
            if str(one.transform) == "identity" and (source := by_id.get(one.source_id)):
                try:
                    values[source.name] = _text(pa.scalar(file.partition[place], source.kind))
                except (pa.ArrowException, ValueError) as error:
                    of_file = _refused(of_file, source, f"its partition cannot be read: {error}")
        info = file_of(uri, name_below(uri, file.file_path, table.location()), infos)
        yield info, TableFile(snapshot, of_file, values, packed_rows(deletes.of(task)))


def _refused(
    columns: tuple[TableColumn, ...], refused: TableColumn, problem: str
) -> tuple[TableColumn, ...]:
    return tuple(replace(one, problem=problem) if one is refused else one for one in columns)


def _columns(table: Table) -> tuple[TableColumn, ...]:
    schema, mapping = table.schema(), table.name_mapping()
    mapped = {one.field_id: tuple(one.names) for one in mapping.root} if mapping else {}
    columns = []
    for one, kind in zip(schema.fields, schema.as_arrow(), strict=True):
        default = one.initial_default
        column = TableColumn(one.name, kind.type, one.field_id, mapped.get(one.field_id, ()))
        if default is not None:
            column = replace(column, value=_text(pa.scalar(default, kind.type)))
        columns.append(column)
    return tuple(columns)


def _text(value: pa.Scalar) -> str | None:
    """A value as a text that can be cast back."""
    if not value.is_valid:
        return None
    text: str = value.cast(pa.string()).as_py()
    if not pa.scalar(text).cast(value.type).equals(value):
        raise ValueError(f"{text!r} of type {value.type} is not the value of a partition")
    return text


class _Deletes:
    """The deleted rows of each data file; a file of deletes is read once."""

    def __init__(self, uri: str, table: Table) -> None:
        self._uri = uri
        self._table = table
        self._read: dict[str, Mapping[str, Int64Array]] = {}

    def of(self, task: FileScanTask) -> Int64Array:
        """The deleted rows of one data file, ascending."""
        rows = [np.zeros(0, dtype=np.int64)]
        for file in task.delete_files:
            if file.file_path not in self._read:
                self._read[file.file_path] = self._rows(file)
            rows.append(self._read[file.file_path].get(task.file.file_path, rows[0]))
        return np.unique(np.concatenate(rows))

    def _rows(self, file: DataFile) -> Mapping[str, Int64Array]:
        """Data file → its rows that a file of deletes has."""
        with self._table.io.new_input(file.file_path).open() as opened:
            data = opened.read()
        if file.file_format.value == "PUFFIN":
            from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
            from pyiceberg.table.puffin import PuffinFile

            return {
                vector.referenced_data_file: vector.to_vector().to_numpy()
                for vector in deletion_vectors_from_puffin_file(PuffinFile(data))
            }
        if file.file_format.value != "PARQUET":
            raise unreadable(self._uri, "Iceberg", f"{file.file_path} is {file.file_format.value}")
        table = pq.read_table(pa.BufferReader(data), columns=["file_path", "pos"])
        groups = table.group_by("file_path").aggregate([("pos", "list")])
        paths = groups["file_path"].to_pylist()
        return {
            path: rows.values.to_numpy()
            for path, rows in zip(paths, groups["pos_list"], strict=True)
        }
