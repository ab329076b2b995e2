"""What the first bytes of a file say: its compression, its format, or what else it is."""

from __future__ import annotations

import codecs
import json
import re

from pipeline.input.formats.base import ContentError, content_errors
from pipeline.input.formats.text import TextStream
from pipeline.store.directory import OpenedFile

# Enough for a line or two of most texts.
_HEAD_BYTES = 64 << 10

_COMPRESSIONS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    # A frame, or one to be skipped, which parallel compressors begin with.
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
}
_FORMATS = {
    "parquet": re.compile(rb"PAR[1E]"),
    # A file, version 1 of Feather (which the reader refuses by name), or a stream.
    "arrow": re.compile(rb"ARROW1|FEA1|\xff\xff\xff\xff"),
}
_UNPACK = {"gzip": "gunzip", "zstd": "zstd -d", "bz2": "bunzip2", "xz": "unxz"}
_WORDS = {"parquet": "a Parquet file", "arrow": "an Arrow file"}
# What else is found under the names of text files.
_OTHERS = {
    re.compile(rb"PK\x03\x04"): "a ZIP archive or a spreadsheet",
    re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"): "a spreadsheet of old Excel",
    re.compile(rb"ORC"): "an ORC file",
    re.compile(rb"Obj\x01"): "an Avro file",
    re.compile(rb"SQLite format 3\0"): "an SQLite database",
    re.compile(rb"\x89HDF\r\n"): "an HDF5 file",
    re.compile(rb"\x93NUMPY"): "a NumPy array",
    re.compile(rb"%PDF-"): "a PDF",
    re.compile(rb"\x04\x22\x4d\x18"): "compressed with lz4",
    re.compile(rb"\xff\x06\0\0sNaPpY"): "compressed with snappy",
    re.compile(rb"7z\xbc\xaf\x27\x1c"): "a 7z archive",
    re.compile(rb".{257}ustar", re.DOTALL): "a tar archive",
    re.compile(rb"(?i)\s*<(?:!doctype )?html"): "an HTML page",
}
_LFS_POINTER = b"version https://git-lfs"
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def head_of(file: OpenedFile, compression: str = "") -> bytes:
    """The first bytes of a file, decompressed; its position is the start again.

    Raises:
        ContentError: they cannot be decompressed.
    """
    stream = TextStream(file, compression)
    head = b""
    while len(head) < _HEAD_BYTES and (more := stream.read(_HEAD_BYTES - len(head))):
        head += more
    file.seek(0)
    return head


def compression_of(head: bytes) -> str:
    """gzip, zstd, bz2 or xz; "" if it is none of them."""
    return next((name for name, magic in _COMPRESSIONS.items() if magic.match(head)), "")


def binary_format(head: bytes) -> str:
    """The format, parquet or arrow, by the first bytes; "" if it is neither."""
    return next((name for name, magic in _FORMATS.items() if magic.match(head)), "")


def json_lines(head: bytes) -> int:
    """How many lines at the start of a file are JSON objects, of at most two.

    A line that is longer than `head` counts as two: nobody writes a single object so.
    """
    found = 0
    lines = head.removeprefix(codecs.BOM_UTF8).lstrip().splitlines(keepends=True)
    for line in filter(bytes.strip, lines):
        if len(head) >= _HEAD_BYTES and not line.endswith(b"\n"):
            return 2 if line.startswith(b"{") else found
        if not _is_object(line):
            return 0 if found < 2 else found
        if (found := found + 1) == 2:
            break
    return found


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def checked_compression(file: OpenedFile, kind: str) -> str:
    """The compression of a file that is taken for one of a format: its bytes decide.

    Args:
        file: opened.
        kind: parquet, arrow, jsonl, csv or tsv.

    Raises:
        ContentError: it is something else; the message says what, and what to do.
    """
    with content_errors(""):
        head = head_of(file)
    _refuse_others(head, kind)
    found = compression_of(head)
    if not found:
        return ""
    if kind in _FORMATS:
        raise ContentError(
            f"it is compressed with {found} as a whole: {_unpack(found)} "
            f"({_WORDS[kind]} is compressed inside)"
        )
    inner = head_of(file, found)
    if again := compression_of(inner):
        raise ContentError(f"it is compressed twice, {again} in {found}: {_unpack(found)}")
    if binary := binary_format(inner):
        raise ContentError(
            f"it is {_WORDS[binary]} compressed with {found} as a whole: {_unpack(found)}"
        )
    _refuse_others(inner, kind)
    return found


def _unpack(compression: str) -> str:
    return f"unpack it, for example with {_UNPACK[compression]}"


def _refuse_others(head: bytes, kind: str) -> None:
    """Refuse bytes that cannot begin a file of format `kind`.

    Raises:
        ContentError: it says what they begin.
    """
    if head.startswith(_LFS_POINTER):
        raise ContentError("it is a pointer of Git LFS and not the file: run git lfs pull")
    binary = binary_format(head)
    if binary and binary != kind:
        raise ContentError(f"it is {_WORDS[binary]}: name it so, or give --format {binary}")
    if kind in _FORMATS:
        return
    for magic, words in _OTHERS.items():
        if magic.match(head):
            raise ContentError(f"it is {words}, not {kind.upper()}: convert it")
    if encoding := _wide_encoding(head):
        raise ContentError(
            f"it is {encoding.upper()}, not UTF-8: convert it, for example with "
            f"iconv -f {encoding} -t utf-8"
        )


def _wide_encoding(head: bytes) -> str:
    """utf-16 or utf-32 by a byte order mark, or by the zeros of English text; "" for neither."""
    for mark, encoding in _WIDE.items():
        if head.startswith(mark):
            return encoding
    zeros = [head[place::4].count(0) for place in range(4)]
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if sum(zeros) > len(head) * 5 / 8:
        return "utf-32le" if zeros[3] >= zeros[0] else "utf-32be"
    if max(even, odd) > len(head) / 4 and min(even, odd) == 0:
        return "utf-16le" if odd else "utf-16be"
    return ""
