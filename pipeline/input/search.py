"""How one submit tells the formats of the files that its inputs name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from stat import S_ISREG

from pipeline.errors import AccessDenied, InputError, NotFound
from pipeline.input.file_format import (
    JSON,
    TEXT_FORMATS,
    UNNAMED,
    as_said,
    by_content,
    by_name,
    unknown_format,
)
from pipeline.input.ignored import (
    EMPTY,
    NO_FILE,
    NOT_ROWS,
    OUTPUT,
    UNKNOWN_SUFFIX,
    IgnoredFiles,
)
from pipeline.store.directory import ObjectInfo, file_info
from pipeline.store.uris import is_local, is_web, redact

_THREADS = 16

Format = tuple[str, str]  # format, compression
_ASK = frozenset({JSON, UNNAMED})  # the content


@dataclass(frozen=True, slots=True)
class Search:
    """How formats are told, and what was left out.

    Attributes:
        said: the format of every file, if the user says it; else "".
        known: (URI, version) → the format of files that were read before.
        ignored: filled with what is no input.
    """

    said: str = ""
    known: Mapping[tuple[str, str], Format] = field(default_factory=dict)
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)

    def ignore(self, root: str, name: str, reason: str) -> None:
        """Note what is no input; what belongs to an output that is named itself is its own."""
        if reason == OUTPUT or not name.startswith("_bei/"):
            self.ignored.add(f"{root.rstrip('/')}/{name}", reason)

    def format_of_named(self, uri: str, info: ObjectInfo) -> Format:
        """The format of a file that is named itself.

        Raises:
            InputError: neither name nor content tells, or it is no regular file.
        """
        if is_local(uri) and not S_ISREG(os.stat(uri).st_mode):
            raise InputError(
                f"{redact(uri)} is not a regular file, and can be read only once",
                hint="write what it gives to a file, and submit that",
            )
        kind = as_said(self.said, info.name) if self.said else by_name(info.name)
        if kind and kind[0] == JSON:
            return "jsonl", kind[1]
        if kind and kind[0] != UNNAMED:
            return kind
        found = self.known.get((uri, info.version)) or by_content(uri)
        if found is None:
            raise unknown_format(uri)
        return found[:2]

    def with_formats(
        self, root: str, infos: Sequence[ObjectInfo]
    ) -> list[tuple[str, ObjectInfo, Format]]:
        """(URI, file, format) of the files in a listing of `root` that are inputs.

        Where the content tells the format, lines of JSON objects are rows. A lone object may be a
        row or a description of the files beside it: it is an input beside files of such lines, and
        where there is nothing else.
        """
        named = [
            (uri, info, kind)
            for info in (_with_sizes(root, infos) if is_web(root) else infos)
            if (kind := self._by_name(uri := f"{root.rstrip('/')}/{info.name}", info)) is not None
        ]
        told = self._contents([(uri, info) for uri, info, kind in named if kind[0] in _ASK])
        certain = [content[0] for content in told.values() if content and content[2]]
        takes_json = "jsonl" in certain or (not certain and len(told) == len(named))
        found = []
        for uri, info, kind in named:
            content = told.get(uri)
            if uri not in told:
                found.append((uri, info, kind))
            elif content and (content[2] or takes_json):
                found.append((uri, info, content[:2]))
            elif kind[0] == JSON and takes_json:
                found.append((uri, info, ("jsonl", kind[1])))
            else:
                self.ignored.add(uri, NOT_ROWS)
        return found

    def _by_name(self, uri: str, info: ObjectInfo) -> Format | None:
        """The format by the name; None if the file is no input."""
        kind = as_said(self.said, info.name) if self.said else by_name(info.name)
        if not info.version:
            self.ignored.add(uri, NO_FILE)
            return None
        if kind is None:
            self.ignored.add(uri, UNKNOWN_SUFFIX)
        elif not info.size and kind[0] in {*TEXT_FORMATS, *_ASK}:
            self.ignored.add(uri, EMPTY)
            return None if kind[0] == UNNAMED else kind
        return kind

    def _contents(
        self, files: Sequence[tuple[str, ObjectInfo]]
    ) -> dict[str, tuple[str, str, bool] | None]:
        """URI → what the content tells, see `by_content`; remote files are read concurrently."""

        def content(file: tuple[str, ObjectInfo]) -> tuple[str, str, bool] | None:
            uri, info = file
            if earlier := self.known.get((uri, info.version)):
                return *earlier, True
            try:
                return by_content(uri) if info.size else ("jsonl", "", False)
            except (AccessDenied, NotFound):  # which is said when it is to be read
                return "jsonl", "", True

        remote = not all(is_local(uri) for uri, _ in files)
        with ThreadPoolExecutor(_THREADS if remote else 1) as pool:
            return dict(zip((uri for uri, _ in files), pool.map(content, files), strict=True))


def _with_sizes(root: str, infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Files that the page of a web server lists, with size and version, which it does not tell."""

    def asked(info: ObjectInfo) -> ObjectInfo:
        try:
            return replace(file_info(f"{root.rstrip('/')}/{info.name}"), name=info.name)
        except (AccessDenied, NotFound):  # which is said when it is to be read
            return replace(info, size=1)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(asked, infos))
