"""Values of a stranger's file as a message shows them: short, in one line, nothing unprintable."""

from __future__ import annotations

import reprlib
from typing import Any

# Characters of one value, and of another library's reason.
_MAX_VALUE = 120
_MAX_REASON = 300

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxdict = _short.maxlist = _short.maxtuple = 6


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    return _cut(_short.repr(value), _MAX_VALUE)


def one_line(reason: object) -> str:
    """A reason or a name in one line of printable characters, cut where it is long."""
    # No more than is shown: the text may have megabytes.
    words = " ".join(str(reason)[: 4 * _MAX_REASON].split())
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return _cut(printable, _MAX_REASON)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
