"""The page of an output, written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.report.page import MAX_BYTES, make_page
from pipeline.errors import UsageError
from pipeline.store.new_file import new_file
from pipeline.store.uris import absolute, redact, refuse_credentials

_SUFFIXES = (".html", ".htm")


def page_uri(file: str) -> str:
    """The absolute URI of a page.

    Raises:
        UsageError: it is not the name of one.
    """
    refuse_credentials(file)
    uri = absolute(file)
    if not uri.lower().endswith(_SUFFIXES):
        raise UsageError(
            f"{redact(file)} is not the name of a page",
            hint="give one that ends with .html: an existing file is replaced",
        )
    return uri


def default_file(output: str) -> str:
    """The page of an output in the current directory: its name and `.html`."""
    return f"{output.rstrip('/').rpartition('/')[2] or 'report'}.html"


def write_page(report: Mapping[str, Any], uri: str) -> None:
    """Write the page of what was gathered; an existing file is replaced.

    Args:
        report: of an output.
        uri: see `page_uri`.

    Raises:
        UsageError: it is within the output.
        StorageError: it cannot be written.
    """
    if f"{uri}/".startswith(f"{report['output'].rstrip('/')}/"):
        raise UsageError(
            f"{redact(uri)} is within the output itself",
            hint="give a FILE outside of it: the output holds only the files of jobs",
        )
    write_html(make_page(report), uri)


def write_html(page: str, uri: str) -> None:
    """Write a page; an existing file is replaced, and folders are made.

    Raises:
        StorageError: it cannot be written.
    """
    with new_file(uri, overwrite=True, max_bytes=MAX_BYTES) as file:
        file.write(page.encode())
