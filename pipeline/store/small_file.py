"""Small files of this machine that others may write too: a file that is no such file is missing."""

from __future__ import annotations

import os
from pathlib import Path


def read_small(path: Path, most_bytes: int) -> str | None:
    """The text of a file; None if there is none, it cannot be read, is not text, or is larger."""
    try:
        # A pipe would wait for ever, and a file of gigabytes fill the memory.
        if not path.is_file() or path.stat().st_size > most_bytes:
            return None
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def replace_small(path: Path, text: str) -> None:
    """Write a file, which no reader sees half written; its directory is made.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text)
    temporary.replace(path)
