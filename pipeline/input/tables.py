"""Directories that are tables: their files hold rows that the table has no longer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.input.table_file import TableFile
from pipeline.store.object_info import ObjectInfo
from pipeline.store.uris import redact


@dataclass(frozen=True, slots=True)
class _Format:
    """A table format, by a file that each of its tables has."""

    name: str
    folder: str  # of the file, in the table's own
    suffixes: tuple[str, ...]  # of the file
    reader: str = ""  # what reads the rows that the table has; "": we do

    @property
    def title(self) -> str:
        """What a directory is."""
        return f"a{'n' * (self.name == 'Iceberg')} {self.name} table"

    def has(self, name: str) -> bool:
        """Whether a file belongs to some table of this format."""
        return name.endswith(self.suffixes) and self.folder in name.split("/")[:-1]


_DELTA = _Format("Delta", "_delta_log", (".json", ".checkpoint.parquet"))
_ICEBERG = _Format("Iceberg", "metadata", (".metadata.json", ".metadata.json.gz"))
_FORMATS = (
    _DELTA,
    _ICEBERG,
    _Format("Hudi", ".hoodie", (".properties",), "the engine that wrote it"),
    _Format("Lance", "_versions", (".manifest",), "lance.dataset"),
)
# Where to look for the file.
TABLE_FOLDERS = tuple(table.folder for table in _FORMATS)


def table_files(uri: str, infos: Sequence[ObjectInfo]) -> list[tuple[ObjectInfo, TableFile]] | None:
    """The files of the current snapshot of a table, by their path; None if it is no table.

    Args:
        uri: a directory.
        infos: every file below it, hidden ones too.

    Raises:
        UsageError: the package that reads the table is not installed.
        InputError: the table cannot be read as it is; the message names it.
        StorageError: the store failed.
    """
    at_root = [info.name for info in infos if info.name.count("/") == 1]
    # First Delta: it may have Iceberg's metadata too, written after its own (UniForm).
    if any(_DELTA.has(name) for name in at_root):
        from pipeline.input.tables_delta import read_delta

        return _not_empty(uri, _DELTA, read_delta(uri, infos))
    if any(_ICEBERG.has(name) for name in at_root):
        from pipeline.input.tables_iceberg import read_iceberg

        return _not_empty(uri, _ICEBERG, read_iceberg(uri, infos))
    return None


def _not_empty(
    uri: str, table: _Format, files: list[tuple[ObjectInfo, TableFile]]
) -> list[tuple[ObjectInfo, TableFile]]:
    if not files:
        raise InputError(
            f"{redact(uri)} is {table.title} without any file in its current snapshot",
            hint="check that it is the intended table",
        )
    return files


def refuse_tables(root: str, names: Iterable[str]) -> None:
    """Refuse files of which some belong to a table.

    Args:
        root: the URI that the names begin at.
        names: of all files there, hidden ones too, relative and "/"-separated.

    Raises:
        InputError: the table and its format are named.
    """
    for name in names:
        for table in _FORMATS:
            if table.has(name):
                folders = name.split("/")
                place = "/".join(folders[: folders.index(table.folder)])
                uri = f"{root.rstrip('/')}/{place}".rstrip("/")
                hint = f"write the rows that it has to Parquet ({table.reader})"
                if not table.reader:
                    hint = f"name the table itself, {redact(uri)}, to read the rows that it has"
                raise InputError(
                    f"{redact(uri)} is {table.title}: its files also hold rows that were "
                    "deleted or replaced",
                    hint=f"{hint}; a file of the table is read if it is named itself",
                )
