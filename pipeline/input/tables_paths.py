"""Files that a table names: below its directory, or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import InputError, NotFound, UsageError
from pipeline.store.directory import Directory
from pipeline.store.object_info import ObjectInfo
from pipeline.store.uris import absolute, is_local, redact

# Of one store; paths name the same objects in all.
_SCHEMES = {
    "s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "wasb": "abfs", "wasbs": "abfs",
    "az": "abfs",
}  # fmt: skip
# What Rust appends to a message.
_BACKTRACE = re.compile(r"\n\s*0: |\n\s*This error occurred with the following context")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def name_below(table: str, path: str, location: str = "") -> str:
    """A path that a table names, from its directory.

    Args:
        table: the URI of the directory.
        path: relative to it, or absolute, as the table names it.
        location: where the table says that it is, if it does: it may have been moved.

    Raises:
        InputError: it leads out of the directory.
    """
    name = path
    if _URI.match(path) or path.startswith("/"):
        whole, places = _plain(path), (_plain(location), _plain(table))
        inside = (place for place in places if place and whole.startswith(f"{place}/"))
        name = whole[len(place) + 1 :] if (place := next(inside, "")) else ""
    if not name or any(segment in ("", ".", "..") for segment in name.split("/")):
        raise InputError(
            f"{redact(table)} names a file that is not in its directory: {redact(path)}",
            hint="as a shallow clone does, and a table with a data path of its own: copy it as a "
            "whole, or submit the table that has the file",
        )
    return name


def file_of(table: str, name: str, infos: Mapping[str, ObjectInfo]) -> ObjectInfo:
    """A file of a table, which may be newer than the listing of its directory.

    Raises:
        InputError: it does not exist.
        StorageError: the store failed.
    """
    try:
        return infos.get(name) or Directory(table).info(name)
    except NotFound as error:
        raise InputError(
            f"{redact(table)}/{name}, which the current snapshot of the table has, does not exist",
            hint="restore the file, or repair the table with the engine that wrote it",
        ) from error


def not_installed(table: str, kind: str, package: str) -> UsageError:
    """The error where a table's library is missing."""
    return UsageError(
        f"to read the {kind} table {redact(table)} needs the package {package}, which is not "
        "installed",
        hint=f"pip install 'bei-jobs[{kind.lower()}]', where the job is planned",
    )


def unreadable(table: str, kind: str, problem: object) -> InputError:
    """The error where a library or this version cannot read a table."""
    message = _BACKTRACE.split(str(problem))[0]
    text = " ".join(message.split())[:300]
    return InputError(
        f"the {kind} table {redact(table)} cannot be read as it is: {text}",
        hint="rewrite it with the engine that wrote it, or write its rows to Parquet and submit "
        "those",
    )


def _plain(uri: str) -> str:
    """A URI in one spelling of its store, without the account of a container."""
    match = _URI.match(uri)
    if uri.startswith("/") or is_local(uri) or (match and match[1] == "file"):
        return absolute(re.sub(r"^file:/+", "/", uri)) if uri else ""
    scheme, _, rest = uri.partition("://")
    scheme = _SCHEMES.get(scheme, scheme)
    bucket, slash, path = rest.rstrip("/").partition("/")
    return f"{scheme}://{bucket.partition('@')[0] if scheme == 'abfs' else bucket}{slash}{path}"
