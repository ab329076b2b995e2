"""Rows → a Lance dataset, through Lance's own library."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.export.columns import cast, common_type, fitting_schema
from pipeline.export.destination import Destination
from pipeline.export.library import load_library
from pipeline.export.rows import Rows
from pipeline.store.new_file import new_directory
from pipeline.store.object_store import error_text, object_store_options
from pipeline.store.uris import is_local, redact


def write_lance(rows: Rows, dest: Destination, *, replaces: bool) -> None:
    """Write a dataset; `replaces` is for its next version, where there is one."""
    lance = load_library("lance", dest)

    def check(schema: pa.Schema) -> None:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, []), "memory://")

    schema = fitting_schema(rows.schema, dest, common_type, check)
    options = None if is_local(dest.uri) else object_store_options(dest.uri)
    mode = "overwrite" if replaces else "create"
    source = _Source(rows, schema, dest)
    place = nullcontext(dest.uri) if replaces else new_directory(dest.uri, overwrite=False)
    with place as uri, ThreadPoolExecutor(1) as pool:
        # In a thread: Python takes Ctrl-C in the main one, and only while that is in Python.
        working = pool.submit(
            lambda: lance.write_dataset(source.reader(), uri, mode=mode, storage_options=options)
        )
        try:
            written = working.result().count_rows()
        except Exception as error:
            if source.error is not None:
                raise source.error from None
            raise StorageError(
                f"{redact(dest.uri)}: Lance cannot be written: {error_text(error, uri)}",
                hint="check the disk or the store, then run the same command again",
            ) from error
        if written != rows.manifest.output_rows:
            raise StorageError(
                f"{redact(dest.uri)}: {written} rows were written, not {rows.manifest.output_rows}"
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
