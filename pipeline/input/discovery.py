"""INPUT arguments → files: each names a file, a directory or a glob on any store."""

from __future__ import annotations

import fnmatch
import glob as local_glob
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from fsspec.core import has_magic

from pipeline.errors import InputError, NotFound
from pipeline.input.file_format import KNOWN_SUFFIXES
from pipeline.input.ignored import HIDDEN, OUTPUT
from pipeline.input.local_files import file_or_link, files_below, real_path
from pipeline.input.search import Search
from pipeline.input.table_file import TableFile
from pipeline.input.tables import TABLE_FOLDERS, refuse_tables, table_files
from pipeline.shards import CSV_FORMATS, TABLE_MARK
from pipeline.store.directory import Directory, ObjectInfo, file_info
from pipeline.store.object_info import info_version, is_folder
from pipeline.store.retry import call
from pipeline.store.uris import absolute, filesystem, is_local, redact

_HIVE_SEGMENT = re.compile(r"([^=]+)=(.*)")
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One input file, before any of it was read."""

    uri: str
    path: str  # relative to the INPUT it came from, "/"-separated
    version: str
    size: int  # bytes
    format: str  # parquet, arrow, jsonl, csv or tsv
    compression: str = ""  # "", gzip, zstd, bz2 or xz; as the name says
    partition: tuple[tuple[str, str], ...] = ()  # hive keys of the path, in order
    csv_escape: str = ""  # see `InputFile`
    table: TableFile | None = None  # what its table makes of it

    def with_columns(self, names: Collection[str]) -> ListedFile:
        """As a file of which only these columns are read: its version says what its table does."""
        if self.table is None:
            return self
        table = self.table.narrowed(names)
        return replace(self, version=f"{self.version}{TABLE_MARK}{table.version}", table=table)

    @property
    def is_csv(self) -> bool:
        """Whether it is CSV, with commas or tabs."""
        return self.format in CSV_FORMATS

    @property
    def stored_version(self) -> str:
        """The version without what its table adds to it."""
        return self.version.rpartition(TABLE_MARK)[0] if self.table else self.version


def discover(inputs: Sequence[str], search: Search | None = None) -> list[ListedFile]:
    """The input files that `inputs` name, in byte order of their URIs, each once.

    A directory is listed recursively, a glob is expanded, and links are followed; a file that
    several links lead to is one. Both leave out names that start with
    "_" or ".", directories that are outputs of bei-jobs (they contain `_bei/`), and files of
    unknown format. Of a directory that is a Delta or an Iceberg table, the files are those of its
    current snapshot. A file that two arguments name keeps its longest relative path.

    Args:
        inputs: files, directories, globs, URIs.
        search: how formats are told; it notes what is left out.

    Raises:
        InputError: an argument names no input, or a file of unknown format.
        StorageError: a store cannot be listed.
    """
    by_uri: dict[str, ListedFile] = {}
    search = search or Search()
    for argument in inputs:
        try:
            files = _expand(absolute(argument), search)
        except NotFound as error:
            raise InputError(error.message, hint=error.hint) from error
        for file in files:
            other = by_uri.get(file.uri)
            if other is None or _rank(file) > _rank(other):
                by_uri[file.uri] = file
    for uri in by_uri:
        if not _is_unicode(uri):
            raise InputError(
                f"the name of the file {uri!r} is not valid UTF-8", hint="rename the file"
            )
    return sorted(_once(by_uri.values()), key=lambda file: file.uri.encode())


def _rank(file: ListedFile) -> tuple[bool, int, str]:
    """Of two arguments that name one file, the higher is taken: a table before its file."""
    return file.table is not None, len(file.path), file.path


def _is_unicode(name: str) -> bool:
    """Whether a name is Unicode text: names of local files may contain any byte."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expand(uri: str, search: Search) -> list[ListedFile]:
    if (info := _as_file(uri)) is not None and not _is_marker(uri, info):
        kind = search.format_of_named(uri, info)
        return [ListedFile(uri, info.name, info.version, info.size, *kind)]
    if has_magic(uri) and not _is_directory(uri):
        root, names = _glob(uri, search)
        return _listed(uri, root, names, search)
    below = list(_below(uri))
    if (files := table_files(uri, below)) is not None:
        return [
            ListedFile(f"{uri.rstrip('/')}/{i.name}", i.name, i.version, i.size, "parquet", table=t)
            for i, t in files
        ]
    return _listed(uri, uri, _visible(uri, below, search), search)


def _below(uri: str) -> Iterable[ObjectInfo]:
    """The files of a directory, by their path from there."""
    if is_local(uri):
        return call(uri, lambda: list(files_below(uri)) if os.path.isdir(uri) else [])
    return Directory(uri).list(recursive=True)


def _once(files: Iterable[ListedFile]) -> list[ListedFile]:
    """Each file once, whatever links lead to it: under its own name if that is listed."""
    by_place: dict[str, ListedFile] = {}
    for file in files:
        place = real_path(file.uri) if is_local(file.uri) else file.uri
        other = by_place.setdefault(place, file)
        if _linked(file, place) < _linked(other, place):
            by_place[place] = file
    return list(by_place.values())


def _linked(file: ListedFile, place: str) -> tuple[bool, int, str]:
    return file.uri != place, len(file.uri), file.uri


def _as_file(uri: str) -> ObjectInfo | None:
    """The file at exactly this URI, if any: a name may contain glob characters."""
    try:
        return file_info(uri)
    except NotFound:
        return None


def _is_marker(uri: str, info: ObjectInfo) -> bool:
    """Whether an object stands for a directory of its name, as some tools make them."""
    return not info.size and not is_local(uri) and _is_directory(uri)


def _is_directory(uri: str) -> bool:
    """Whether a directory has exactly this name, glob characters and all."""
    if is_local(uri):
        return os.path.isdir(uri)
    return next(Directory(uri).list(recursive=True), None) is not None


def _listed(uri: str, root: str, infos: Sequence[ObjectInfo], search: Search) -> list[ListedFile]:
    files = [
        ListedFile(whole, info.name, info.version, info.size, *kind, _partition(info.name))
        for whole, info, kind in search.with_formats(root, infos)
    ]
    if not files:
        hint = (
            f"known suffixes are {KNOWN_SUFFIXES}; or give --format" if infos else "check the path"
        )
        raise InputError(_no_input_message(uri, infos), hint=hint)
    return files


def _no_input_message(uri: str, infos: Sequence[ObjectInfo]) -> str:
    if not infos:
        if has_magic(uri):
            problem = "matches no file"
        else:  # buckets have no empty directories
            problem = "is empty" if is_local(uri) and os.path.isdir(uri) else "does not exist"
        return f"{redact(uri)} {problem}"
    shown = ", ".join(info.name for info in infos[:_SHOWN_MAX])
    more = f" and {len(infos) - _SHOWN_MAX} more" if len(infos) > _SHOWN_MAX else ""
    return f"{redact(uri)} holds no input files, only {shown}{more}"


def _partition(name: str) -> tuple[tuple[str, str], ...]:
    """The `key=value` directories of a relative path, percent-decoded: Hive encodes them."""
    matches = (_HIVE_SEGMENT.fullmatch(segment) for segment in name.split("/")[:-1])
    return tuple((unquote(m.group(1)), unquote(m.group(2))) for m in matches if m)


def _visible(root: str, infos: Iterable[ObjectInfo], search: Search) -> list[ObjectInfo]:
    """The files of a directory listing, without hidden names and other outputs."""
    files = list(infos)
    refuse_tables(root, (info.name for info in files))
    outputs = {info.name.rpartition("_bei/")[0] for info in files if "/_bei/" in info.name}
    return _outside(root, outputs, files, frozenset(), search)


def _outside(
    root: str,
    outputs: Iterable[str],
    infos: Sequence[ObjectInfo],
    literal: frozenset[str],
    search: Search,
) -> list[ObjectInfo]:
    """Leave out files below `outputs` and hidden names, except `literal` ones, which were typed.

    An empty object with the name of a directory stands for it, and is left out as well.
    """
    prefixes = tuple(outputs)
    folders = {info.name[:i] for info in infos for i in _slashes(info.name)}
    for prefix in prefixes:
        search.ignore(root, prefix, OUTPUT)
    visible = []
    for info in infos:
        if info.name.startswith(prefixes) or (info.size == 0 and info.name in folders):
            continue
        if any(
            part.startswith(("_", ".")) and part not in literal for part in info.name.split("/")
        ):
            search.ignore(root, info.name, HIDDEN)
        else:
            visible.append(info)
    return visible


def _glob(uri: str, search: Search) -> tuple[str, list[ObjectInfo]]:
    """The directory before the first segment with glob characters, and the files that match."""
    # Within a name, `**` is `*`, which not all stores know.
    segments = [each if each == "**" else re.sub(r"\*+", "*", each) for each in uri.split("/")]
    uri = "/".join(segments)
    first = next(i for i, segment in enumerate(segments) if has_magic(segment))
    root = "/".join(segments[:first]) or "/"
    # `**` matches a directory, and what is in it once more.
    found = call(uri, lambda: {info.name: info for info in _matches(uri, root)})
    matched = [found[name] for name in sorted(found, key=str.encode)]
    folders = {f"{info.name[:i]}/" for info in matched for i in _slashes(info.name)}
    outputs = [folder for folder in sorted(folders) if _is_output(f"{root}/{folder}")]
    # The folder of a table, not its partitions: of those there may be thousands.
    for folder in sorted({"", *(folder for folder in folders if folder.count("/") == 1)}):
        _refuse_table(f"{root}/{folder}")
    literal = _spelled_out(segments[first:], matched)
    return root, _outside(root, outputs, matched, literal, search)


def _spelled_out(segments: Iterable[str], infos: Iterable[ObjectInfo]) -> frozenset[str]:
    """The hidden names that match segments of a glob which begin like them."""
    typed = [segment for segment in segments if segment.startswith(("_", "."))]
    parts = {part for info in infos for part in info.name.split("/")} if typed else ()
    return frozenset(name for segment in typed for name in fnmatch.filter(parts, segment))


def _refuse_table(uri: str) -> None:
    """Refuse a directory that is a table, at the cost of a listing for each format."""
    for folder in TABLE_FOLDERS:
        refuse_tables(uri, (info.name for info in Directory(uri).list(f"{folder}/")))


def _slashes(name: str) -> list[int]:
    return [i for i, char in enumerate(name) if char == "/"]


def _is_output(uri: str) -> bool:
    return next(Directory(uri).list("_bei/", recursive=True), None) is not None


def _matches(uri: str, root: str) -> Iterator[ObjectInfo]:
    fs, pattern = filesystem(uri)
    if is_local(uri):
        infos = {
            path: None if os.path.isdir(path) else file_or_link(path, path)
            for path in local_glob.glob(uri, recursive=True)
        }
        base = root
    else:
        details = fs.glob(pattern, detail=True)
        infos = {
            path: None
            if info["type"] == "directory"
            else ObjectInfo(path, info["size"], info_version(info))
            for path, info in details.items()
            if not is_folder(path)
        }
        base = filesystem(root)[1]
    for path, info in infos.items():
        name = path[len(base) :].removeprefix("/").rstrip("/")  # a key may hold "//"
        if info is not None:
            yield ObjectInfo(name, info.size, info.version)
        else:
            for inner in _below(f"{root.rstrip('/')}/{name}".rstrip("/")):
                whole = f"{name}/{inner.name}" if name else inner.name
                yield ObjectInfo(whole, inner.size, inner.version)
