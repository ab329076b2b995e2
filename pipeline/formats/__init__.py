"""One reader per input format, each behind the same three questions: see `Reader`.

A reader raises ContentError for whatever is wrong with the content; errors of the store come
through as they are (`pipeline.storage.OpenedFile` translates them).
"""

from __future__ import annotations

from pipeline.formats.base import ContentError, Facts, Reader, open_reader

__all__ = ["ContentError", "Facts", "Reader", "open_reader"]
