"""The format of a file by its name, or by its content where the name does not tell."""

from __future__ import annotations

import os
import re

from pipeline.errors import InputError
from pipeline.input.formats import ContentError
from pipeline.input.formats.content import binary_format, compression_of, head_of, json_lines
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import redact

# These may be compressed, and are read from their start instead of from a footer.
TEXT_FORMATS = frozenset({"jsonl", "csv", "tsv"})
# What a name may also say: JSON of any kind, and nothing.
JSON, UNNAMED = "json", ""
KNOWN_SUFFIXES = (
    ".parquet, .arrow, .feather, .jsonl, .ndjson, .json, .csv and .tsv; text also with .gz, .zst, "
    ".bz2 or .xz"
)
_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": JSON,
    ".csv": "csv",
    ".tsv": "tsv",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
# The end of a name that is no suffix: `000000_0` of Hive, `part-00000`, `events.2026-01-31`.
_NO_SUFFIX = re.compile(r"(\.[\d_-]*)?")


def by_name(name: str) -> tuple[str, str] | None:
    """(format, compression) by the suffix, where the format may be JSON or UNNAMED.

    None if the suffix is unknown.
    """
    stem, suffix = os.path.splitext(name.lower())
    compression = _COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = os.path.splitext(stem)[1]
    kind = UNNAMED if _NO_SUFFIX.fullmatch(suffix) else _FORMATS.get(suffix)
    if kind is None or (compression and kind not in {*TEXT_FORMATS, JSON, UNNAMED}):
        return None
    return kind, compression


def as_said(kind: str, name: str) -> tuple[str, str]:
    """(format, compression) where the user says the format."""
    compression = _COMPRESSIONS.get(os.path.splitext(name.lower())[1], "")
    return kind, compression if kind in TEXT_FORMATS else ""


def by_content(uri: str) -> tuple[str, str, bool] | None:
    """(format, compression, whether that is certain) by the first bytes of a file.

    Text has a format only if its lines are JSON objects; one line may be a lone object.

    Returns:
        None if they do not tell.

    Raises:
        StorageError: it cannot be opened.
    """
    with OpenedFile(uri, sequential=True) as file:
        head = head_of(file)
        if compression := compression_of(head):
            try:
                head = head_of(file, compression)
            except ContentError:
                return "jsonl", compression, False  # reading it says what is wrong
    if kind := binary_format(head):
        return kind, compression, True
    lines = json_lines(head)
    return ("jsonl", compression, lines > 1) if lines else None


def unknown_format(uri: str) -> InputError:
    """The error about a file whose format neither name nor content tells."""
    return InputError(
        f"{redact(uri)}: cannot tell the format from the name, nor from the content",
        hint=f"known suffixes are {KNOWN_SUFFIXES}; or give --format",
    )
