"""Directories that are tables: their files hold rows that the table has no longer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.store.uris import redact


@dataclass(frozen=True, slots=True)
class _Format:
    """A table format, by a file that each of its tables has."""

    name: str
    folder: str  # of the file, in the table's own
    suffix: str  # of the file
    reader: str  # what reads the rows that the table has


_FORMATS = (
    _Format("Delta", "_delta_log", ".json", "polars.scan_delta"),
    _Format("Iceberg", "metadata", ".metadata.json", "polars.scan_iceberg"),
    _Format("Hudi", ".hoodie", ".properties", "the engine that wrote it"),
    _Format("Lance", "_versions", ".manifest", "lance.dataset"),
)
# Where to look for the file.
TABLE_FOLDERS = tuple(table.folder for table in _FORMATS)


def refuse_tables(root: str, names: Iterable[str]) -> None:
    """Refuse files of which some belong to a table.

    Args:
        root: the URI that the names begin at.
        names: of all files there, hidden ones too, relative and "/"-separated.

    Raises:
        InputError: the table and its format are named.
    """
    for name in names:
        *folders, _ = name.split("/")
        for table in _FORMATS:
            if name.endswith(table.suffix) and table.folder in folders:
                place = "/".join(folders[: folders.index(table.folder)])
                uri = f"{root.rstrip('/')}/{place}".rstrip("/")
                raise InputError(
                    f"{redact(uri)} is a {table.name} table: its files also hold rows that were "
                    "deleted or replaced",
                    hint=f"write the rows that it has to Parquet ({table.reader}), and submit that "
                    "file; a file of the table is read if it is named itself",
                )
