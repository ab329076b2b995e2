"""Rows → one NumPy array of vectors, and a Parquet file of the other columns beside it."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StorageError, UsageError
from pipeline.export.columns import cast
from pipeline.export.destination import Destination
from pipeline.export.parquet import parquet_schema, parquet_writer
from pipeline.export.rows import Rows
from pipeline.store.directory import Directory
from pipeline.store.new_file import new_file
from pipeline.store.uris import redact


def write_npy(rows: Rows, dest: Destination, *, overwrite: bool) -> None:
    """Write the vectors as [rows, dimensions], and beside them what else is known of these rows.

    Rows with an error have no vector, and are in neither file.

    Raises:
        UsageError: the output has no vectors.
    """
    vectors = rows.vectors
    if vectors is None:
        spec = rows.run.spec
        reason = (
            f"vectors: its task is {spec.task}"
            if spec.vectors == ("dense",)
            else f"dense vectors, only {' and '.join(spec.vectors)} ones"
        )
        raise UsageError(f"{redact(rows.output.uri)} holds no {reason}", hint="export --to parquet")
    others = parquet_schema(_without(rows.schema, vectors.name, "error"), dest)
    count = rows.manifest.output_rows - rows.manifest.failed
    width, dtype = vectors.type.list_size, np.dtype(vectors.type.value_type.to_pandas_dtype())
    size = count * width * dtype.itemsize
    committed = False
    try:
        with new_file(dest.uri, overwrite=overwrite, max_bytes=size) as array:
            _write_header(array, (count, width), dtype)
            with (
                new_file(dest.ids_uri, overwrite=overwrite, max_bytes=rows.manifest.bytes) as ids,
                parquet_writer(ids, others) as writer,
            ):
                for table in rows.tables():
                    sound = table.filter(pc.is_valid(table[vectors.name]))
                    for chunk in sound[vectors.name].chunks:
                        array.write(np.ascontiguousarray(chunk.flatten().to_numpy()).data)
                    writer.write_table(cast(sound.select(others.names), others, dest))
                    count -= len(sound)
                _check_count(rows, count)
                if overwrite:  # never an earlier array beside the new ids
                    _delete(dest.uri)
            committed = True
    except BaseException:
        if committed:  # ids alone, or beside an array of others
            _delete(dest.ids_uri)
        raise


def _check_count(rows: Rows, missing: int) -> None:
    if missing:
        uri = redact(rows.output.uri)
        raise StorageError(
            f"{uri}: its vectors are not as many as the manifest says",
            hint=f"run `bei-jobs verify {uri}`",
        )


def _delete(uri: str) -> None:
    folder, _, name = uri.rpartition("/")
    Directory(folder).delete(name)


def _write_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _without(schema: pa.Schema, *names: str) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in names], schema.metadata)
