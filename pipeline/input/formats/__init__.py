"""One reader per input format, each behind the same three questions: see `Reader`.

A reader raises ContentError for whatever is wrong with the content; errors of the store come
through as they are (`pipeline.store.directory.OpenedFile` translates them).
"""

from __future__ import annotations

from pipeline.input.formats.base import ContentError, FileSummary, Reader
from pipeline.input.formats.open import open_reader

__all__ = ["ContentError", "FileSummary", "Reader", "open_reader"]
