"""One reader per input format, all with one interface: see `Reader`.

A reader raises ContentError if the content is wrong; errors of the store pass through unchanged
(`pipeline.store.directory.OpenedFile` translates them).
"""

from __future__ import annotations

from pipeline.input.formats.base import ContentError, FileSummary, Reader
from pipeline.input.formats.open import open_reader

__all__ = ["ContentError", "FileSummary", "Reader", "open_reader"]
