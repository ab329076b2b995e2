"""A file as somebody writes it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAME = ""
REFUSED = "an error"


@dataclass(frozen=True, slots=True)
class Sample:
    """One input file.

    Attributes:
        what: says what is special, for people.
        name: of the file; its suffix says the format.
        data: its bytes.
        differs: how the reference's rows differ from ours, where it is DuckDB, or for Arrow polars.
    """

    what: str
    name: str
    data: bytes
    differs: str = SAME


def written(suffix: str, write: Callable[[str], object]) -> bytes:
    """The bytes that a writer leaves at a path with a suffix."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rows{suffix}")
        write(str(path))
        return path.read_bytes()
