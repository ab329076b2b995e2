"""Rows → a Delta table: Parquet files, and then one commit that names them.

Its library can also write the files, but holds more the more there is to write: 4.4 GB for 2.5 GB
of texts.
"""

from __future__ import annotations

import json
import uuid
from contextlib import nullcontext, suppress
from typing import Any

import pyarrow as pa

from pipeline.errors import StorageError, UsageError
from pipeline.export.columns import common_type, fitting_schema
from pipeline.export.destination import Destination
from pipeline.export.library import load_library
from pipeline.export.parquet import write_files
from pipeline.export.rows import Rows
from pipeline.store.directory import Directory
from pipeline.store.new_file import new_directory
from pipeline.store.object_store import error_text, object_store_options
from pipeline.store.uris import is_local, redact

# A type that Delta lacks → the next one that holds all of its values.
_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
}


def write_delta(
    rows: Rows, dest: Destination, rows_per_file: int, *, replaces: bool
) -> dict[str, str]:
    """Write a table; `replaces` is for its next version, where there is one.

    Returns:
        The columns that have another type in the table, and that type.
    """
    deltalake = load_library("deltalake", dest)
    schema = fitting_schema(rows.schema, dest, _delta_type, deltalake.Schema.from_arrow)
    schema = schema.remove_metadata()
    _refuse_same_names(schema, dest)
    options = None if is_local(dest.uri) else object_store_options(dest.uri)
    export = uuid.uuid4().hex  # no version has a file of another one's name
    place = nullcontext(dest.uri) if replaces else new_directory(dest.uri, overwrite=False)
    with place as folder:
        directory = Directory(folder)
        try:
            files = write_files(
                rows, schema, dest, folder, rows_per_file,
                lambda index, _: f"rows-{index:05}-{export}.parquet",
            )  # fmt: skip
            actions = [_added(deltalake, directory, name, count) for name, count in files.items()]
            _commit(deltalake, folder, actions, schema, options, replaces)
        except BaseException:
            with suppress(StorageError):
                for item in directory.list("rows-"):
                    if export in item.name:
                        directory.delete(item.name)
            raise
    return {
        new.name: str(new.type)
        for new, old in zip(schema, rows.schema, strict=True)
        if new.type != old.type
    }


def _refuse_same_names(schema: pa.Schema, dest: Destination) -> None:
    """Delta does not tell names apart by case."""
    seen: dict[str, str] = {}
    for name in schema.names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UsageError(
                f"{redact(dest.uri)}: a Delta table has no columns {other!r} and {name!r} at once: "
                "their names differ by case alone",
                hint="export --to parquet, which keeps both",
            )


def _added(deltalake: Any, directory: Directory, name: str, rows: int) -> Any:
    info = directory.info(name)
    return deltalake.transaction.AddAction(
        path=name,
        size=info.size,
        partition_values={},
        modification_time=int(info.modified * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": rows}),
    )


def _commit(
    deltalake: Any,
    uri: str,
    actions: list[Any],
    schema: pa.Schema,
    options: dict[str, str] | None,
    replaces: bool,
) -> None:
    try:
        if replaces:
            table = deltalake.DeltaTable(uri, storage_options=options)
            table.create_write_transaction(actions, "overwrite", schema)
        else:
            deltalake.transaction.create_table_with_add_actions(
                uri, deltalake.Schema.from_arrow(schema), actions, storage_options=options
            )
    except Exception as error:  # the library has no common class of its errors
        raise StorageError(
            f"{redact(uri)}: Delta cannot be written: {error_text(error, uri)}",
            hint="check the disk or the store, then run the same command again",
        ) from error


def _delta_type(kind: pa.DataType) -> pa.DataType:
    kind = common_type(kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_dictionary(kind):
        return _delta_type(kind.value_type)
    return _WIDER.get(kind, kind)
