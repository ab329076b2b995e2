"""The reader of each format.

To add a format, add a file beside these, a branch here, and its suffix in
`pipeline.input.file_format`.
"""

from __future__ import annotations

from pipeline.input.formats.base import Reader
from pipeline.store.directory import OpenedFile


def open_reader(file: OpenedFile, kind: str, compression: str, csv_escape: str = "") -> Reader:
    """The reader of a format: parquet, arrow, jsonl, csv or tsv.

    Raises:
        ContentError: the content does not match the format.
    """
    # Imported on use: a job usually needs only one of them.
    if kind == "parquet":
        from pipeline.input.formats.parquet import ParquetReader

        return ParquetReader(file)
    if kind == "arrow":
        from pipeline.input.formats.arrow import open_arrow

        return open_arrow(file)
    if kind == "jsonl":
        from pipeline.input.formats.jsonl import JsonLinesReader

        return JsonLinesReader(file, compression)
    from pipeline.input.formats.csv import CsvReader

    return CsvReader(file, compression, "\t" if kind == "tsv" else ",", csv_escape)
