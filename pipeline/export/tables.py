"""Rows → a Lance dataset or a Delta table, through the libraries of these formats."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pyarrow as pa

from pipeline.errors import StorageError, UsageError
from pipeline.export.columns import cast, common_type, fitting_schema
from pipeline.export.destination import Destination
from pipeline.export.rows import Rows
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


def write_lance(rows: Rows, dest: Destination, *, replaces: bool) -> None:
    """Write a dataset; `replaces` is for its next version, where there is one."""
    lance = _library("lance", "lance", dest)

    def check(schema: pa.Schema) -> None:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, []), "memory://")

    def write(reader: pa.RecordBatchReader, uri: str, options: dict[str, str] | None) -> int:
        mode = "overwrite" if replaces else "create"
        made = lance.write_dataset(reader, uri, mode=mode, storage_options=options)
        return int(made.count_rows())

    _write(rows, dest, fitting_schema(rows.schema, dest, common_type, check), write, replaces)


def write_delta(rows: Rows, dest: Destination, *, replaces: bool) -> dict[str, str]:
    """Write a table; `replaces` is for its next version, where there is one.

    Returns:
        The columns that have another type in the table, and that type.
    """
    deltalake = _library("deltalake", "delta", dest)

    def write(reader: pa.RecordBatchReader, uri: str, options: dict[str, str] | None) -> int:
        deltalake.write_deltalake(
            uri, reader,
            mode="overwrite" if replaces else "error",
            schema_mode="overwrite" if replaces else None,
            storage_options=options,
        )  # fmt: skip
        table = deltalake.DeltaTable(uri, storage_options=options)
        return sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist())

    schema = fitting_schema(rows.schema, dest, _delta_type, deltalake.Schema.from_arrow)
    _write(rows, dest, schema, write, replaces)
    return {
        new.name: str(new.type)
        for new, old in zip(schema, rows.schema, strict=True)
        if new.type != old.type
    }


def _delta_type(kind: pa.DataType) -> pa.DataType:
    kind = common_type(kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_dictionary(kind):
        return _delta_type(kind.value_type)
    return _WIDER.get(kind, kind)


def _library(name: str, extra: str, dest: Destination) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{redact(dest.uri)}: --to {dest.format} needs a package that is not installed "
            f"({error})",
            hint=f"install bei-jobs with its extra: {extra}",
        ) from error


def _write(
    rows: Rows,
    dest: Destination,
    schema: pa.Schema,
    write: Callable[[pa.RecordBatchReader, str, dict[str, str] | None], int],
    replaces: bool,
) -> None:
    """Write the rows with a library, which commits them in one step at their end."""
    options = None if is_local(dest.uri) else object_store_options(dest.uri)
    source = _Source(rows, schema, dest)
    place = nullcontext(dest.uri) if replaces else new_directory(dest.uri, overwrite=False)
    with place as uri, ThreadPoolExecutor(1) as pool:
        # In a thread: Python takes Ctrl-C in the main one, and only while that is in Python.
        try:
            written = pool.submit(lambda: write(source.reader(), uri, options)).result()
        except Exception as error:
            if source.error is not None:
                raise source.error from None
            raise StorageError(
                f"{redact(dest.uri)}: {dest.format} cannot be written: {error_text(error, uri)}",
                hint="check the disk or the store, then run the same command again",
            ) from error
        if written != rows.manifest.rows:
            raise StorageError(
                f"{redact(dest.uri)}: {written} rows were written, not {rows.manifest.rows}"
            )


class _Source:
    """The rows as the libraries read them. They hide the error of a source; `error` keeps it."""

    def __init__(self, rows: Rows, schema: pa.Schema, dest: Destination) -> None:
        self.error: BaseException | None = None
        self._rows, self._schema, self._dest = rows, schema, dest

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in self._rows.tables():
                yield from cast(table, self._schema, self._dest).to_batches()
        except BaseException as error:
            self.error = error
            raise
