"""Where an export goes and as what: DEST, --to, and what is there already."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fsspec.core import has_magic
from fsspec.utils import glob_translate

from pipeline.errors import NotFound, OutputConflict, UsageError
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.store.directory import Directory, file_info
from pipeline.store.new_file import exists
from pipeline.store.uris import absolute, is_local, is_web, redact, refuse_credentials

ExportFormat = Literal["parquet", "npy", "lance", "delta"]

# The files of a directory that an export wrote.
_ROWS_FILE = re.compile(r"rows-\d{5,}-of-\d{5,}\.parquet")

# What makes a directory a table.
_TABLE_FOLDERS = {"lance": "_versions/", "delta": "_delta_log/"}


@dataclass(frozen=True, slots=True)
class Destination:
    """What is written, and where."""

    uri: str  # absolute
    format: ExportFormat
    is_file: bool

    @property
    def ids_uri(self) -> str:
        """Beside a .npy file: the other columns of its rows."""
        return f"{self.uri.removesuffix('.npy')}.ids.parquet"

    @property
    def files(self) -> tuple[str, ...]:
        """The URIs of all files, where the names are known beforehand."""
        if not self.is_file:
            return ()
        return (self.uri, self.ids_uri) if self.format == "npy" else (self.uri,)


def find_destination(dest: str, to: ExportFormat | None) -> Destination:
    """What DEST and --to say together.

    Raises:
        UsageError: they say nothing, or contradict each other; or DEST holds a password.
    """
    refuse_credentials(dest)
    uri = absolute(dest)
    named = _format_of_name(uri)
    is_folder = dest.endswith("/") or named not in ("parquet", "npy")
    if dest.endswith("/") and named in (None, "npy"):
        named = "parquet"
    if named is None and to is None:
        raise UsageError(
            f"{redact(dest)} does not say what to write",
            hint="end it with .parquet, .npy, .lance or .delta, or with / for a directory of "
            f"Parquet files; or add --to {'|'.join(get_args(ExportFormat))}",
        )
    if to and named and to != named:
        raise UsageError(
            f"{redact(dest)} is a name for --to {named}, not for --to {to}",
            hint="give another name, or omit --to",
        )
    chosen = to or named
    assert chosen is not None
    return Destination(uri, chosen, chosen == "npy" or (chosen == "parquet" and not is_folder))


def _format_of_name(uri: str) -> ExportFormat | None:
    suffix = uri.rpartition("/")[2].rpartition(".")[2].lower()
    return next((each for each in get_args(ExportFormat) if each == suffix), None)


def refuse_own_files(dest: Destination, output: Output, run: Run, inputs: Sequence[str]) -> None:
    """Refuse a destination where the job itself reads or writes.

    Args:
        dest: to be written.
        output: exported.
        run: whose INPUT arguments the next submit reads again.
        inputs: the URIs of the files that the run read.

    Raises:
        UsageError: the next submit would read the export, or the export overwrite an input.
    """
    real = replace(dest, uri=_real(dest.uri, is_file=dest.is_file))
    if _is_within(real.uri, _real(output.uri)):
        raise UsageError(
            f"{redact(dest.uri)} is within the output itself",
            hint="give a DEST outside of it: its files are those of jobs",
        )
    folder = dest.uri.rpartition("/")[0]
    if dest.is_file and folder and not is_web(folder) and Output(folder).begun():
        raise UsageError(
            f"{redact(dest.uri)} is within another output, whose readers would take it for a part",
            hint="give a DEST outside of it: its files are those of jobs",
        )
    read = next((uri for uri in run.inputs if _reads(uri, dest) or _reads(_real(uri), real)), None)
    read = read or next((uri for uri in inputs if _is_within(_real(uri), real.uri)), None)
    if read is not None:
        raise UsageError(
            f"{redact(dest.uri)} is where the job reads its input, {redact(read)}",
            hint="give a DEST outside of the input",
        )


def file_name(index: int, files: int) -> str:
    """The name of a file of a directory: it says whether another one is missing."""
    return f"rows-{index:05}-of-{files:05}.parquet"


def _reads(given: str, dest: Destination) -> bool:
    """Whether an INPUT argument would name the export."""
    written = f"{dest.uri}/{file_name(0, 1)}" if dest.format == "parquet" else dest.uri
    pattern = re.compile(glob_translate(given)) if has_magic(given) else None
    matches = pattern and (pattern.match(dest.uri) or pattern.match(written))
    return _is_within(dest.uri, given) or bool(matches)


def _real(uri: str, *, is_file: bool = False) -> str:
    """A path without links; that of a file that is written, which takes the place of a link."""
    if not is_local(uri):
        return uri
    folder, name = os.path.split(uri) if is_file else (uri, "")
    return os.path.join(os.path.realpath(folder), name).rstrip("/")


def _is_within(uri: str, folder: str) -> bool:
    return f"{uri}/".startswith(f"{folder.rstrip('/')}/")


def found(dest: Destination, *, overwrite: bool) -> bool:
    """Whether something is at the destination, which may be overwritten.

    Raises:
        UsageError: a directory is where a file shall be.
        OutputConflict: something is, and may not be overwritten.
    """
    if dest.is_file:
        if is_local(dest.uri) and os.path.isdir(dest.uri):
            raise UsageError(f"{dest.uri} is a directory", hint="give the name of a file")
        there = [uri for uri in dest.files if _is_file(uri)]
        if there and not overwrite:
            raise exists(there[0])
        return bool(there)
    if _is_file(dest.uri):
        raise OutputConflict(
            f"{redact(dest.uri)} is a file, and --to {dest.format} makes a directory",
            hint="give another DEST",
        )
    names = [item.name for item in Directory(dest.uri).list(recursive=True)]
    if names and not overwrite:
        raise exists(dest.uri)
    folder = _TABLE_FOLDERS.get(dest.format)
    foreign = _foreign(names, folder)
    if foreign:
        raise OutputConflict(
            f"{redact(dest.uri)} holds {foreign}, which no export to {dest.format} wrote",
            hint="give another DEST: --overwrite deletes nothing but an earlier export",
        )
    return bool(names)


def _foreign(names: Sequence[str], folder: str | None) -> str | None:
    """A name that does not belong to what an export writes; None if there is none."""
    if folder is None:
        return next((name for name in names if not _ROWS_FILE.fullmatch(name)), None)
    return None if any(name.startswith(folder) for name in names) else next(iter(names), None)


def _is_file(uri: str) -> bool:
    try:
        file_info(uri)
    except NotFound:
        return False
    return True
