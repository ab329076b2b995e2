"""A file of a plan, open: every error says whether it is still the version that was planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import BeiJobsError, InputChanged, InputError, InputMissing, NotFound
from pipeline.input.discovery import ListedFile
from pipeline.input.file_format import TEXT_FORMATS
from pipeline.input.formats import ContentError, Reader, open_reader
from pipeline.input.table_file import TableReader
from pipeline.shards import InputFile
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import redact

# The hint of every InputChanged.
SUBMIT_AGAIN = "submit again to plan the new version of the file"
_FIND_IT = "put it back, or mount it on this machine, or submit again without it"


@contextmanager
def open_planned(file: InputFile | ListedFile) -> Iterator[OpenedFile]:
    """Open a file; any error is InputChanged if the file has changed meanwhile."""
    uri = redact(file.uri)
    try:
        opened = OpenedFile(file.uri, sequential=file.format in TEXT_FORMATS)
    except NotFound as error:
        raise InputMissing(f"{uri} no longer exists", hint=_FIND_IT) from error
    with opened:
        check_version(file, opened)
        try:
            yield opened
        except (ContentError, BeiJobsError) as error:
            check_version(file, opened)
            if isinstance(error, BeiJobsError):
                raise
            raise InputError(
                f"{uri}: {error}", hint="repair the file, or leave it out of the inputs"
            ) from error


def reader_of(opened: OpenedFile, file: InputFile | ListedFile, table: str) -> Reader | TableReader:
    """What reads the rows of a file; `table` describes the files of a table, "" for any other."""
    if table:
        return TableReader(opened, table)
    return open_reader(opened, file.format, file.compression, file.csv_escape)


def check_version(file: InputFile | ListedFile, opened: OpenedFile) -> None:
    """Compare the version of an open file with that of the plan.

    Raises:
        InputChanged, InputMissing: it has another one, or is gone.
    """
    try:
        version = opened.version()
    except NotFound as error:
        raise InputMissing(f"{redact(file.uri)} no longer exists", hint=_FIND_IT) from error
    if version != file.stored_version:
        raise InputChanged(f"{redact(file.uri)} changed since it was planned", hint=SUBMIT_AGAIN)
