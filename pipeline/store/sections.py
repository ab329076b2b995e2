"""Options of stores by URI prefix: what the user's `--stores FILE` says, for this process.

It holds secrets: a process hands it to those that it starts through a pipe, and nothing prints,
logs or stores its values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus

# Options that are not taken out of the errors of clients: words that may stand in any of them.
_WORDS = frozenset({"profile", "region", "region_name", "DefaultEndpointsProtocol"})
_MIN_CHARS = 4  # what is shorter is no secret, and part of many words


@dataclass(frozen=True, slots=True)
class Section:
    """The options of the file systems below one URI prefix."""

    prefix: str  # such as "s3://bucket/path", without a slash at the end
    options: Mapping[str, Any] = field(repr=False)  # of fsspec's class

    def covers(self, uri: str) -> bool:
        """Whether `uri` is the prefix or below it: "s3://in" does not cover "s3://in-2"."""
        return f"{uri}/".startswith(f"{self.prefix.rstrip('/')}/")

    def scrub(self, text: str) -> str:
        """`text` without the values of this section, also as a URL spells them."""
        for value in _values(self.options):
            for spelled in (value, quote(value, safe=""), quote_plus(value)):
                text = text.replace(spelled, "...")
        return text


@dataclass(frozen=True, slots=True)
class Stores:
    """The sections of one file; without a file there are none."""

    file: str = ""  # absolute
    sections: tuple[Section, ...] = ()

    def section(self, uri: str) -> Section | None:
        """The section with the longest prefix that covers an absolute `uri`."""
        covering = (section for section in self.sections if section.covers(uri))
        return max(covering, key=lambda section: len(section.prefix), default=None)

    def options(self, uri: str) -> dict[str, Any]:
        """The options that the file gives to the file system of `uri`."""
        section = self.section(uri)
        # A copy: clients change what they are given, and fsspec would take it for other options.
        return {} if section is None else copy.deepcopy(dict(section.options))

    def scrub(self, uri: str, text: str) -> str:
        """`text` about `uri` without the values of its section."""
        section = self.section(uri)
        return text if section is None else section.scrub(text)

    def note(self, uri: str) -> str:
        """Which section `uri` uses, as hints end; "" without a file, and for a path."""
        if not self.file or "://" not in uri:
            return ""
        section = self.section(uri)
        if section is None:
            return f" (no section of {self.file} covers it)"
        return f' (section ["{section.prefix}"] of {self.file})'


_configured = Stores()
_of_this_thread: ContextVar[Stores | None] = ContextVar("stores", default=None)


def configure(stores: Stores) -> None:
    """Set the options of all stores that this process opens from now on."""
    global _configured
    _configured = stores


@contextmanager
def using(stores: Stores) -> Iterator[None]:
    """Inside, this thread opens stores with these options, whatever `configure` has set."""
    token = _of_this_thread.set(stores)
    try:
        yield
    finally:
        _of_this_thread.reset(token)


def configured() -> Stores:
    """What `using` has set around this call, or else `configure`."""
    own = _of_this_thread.get()
    return _configured if own is None else own


def _values(options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _values(value)
        elif key == "connection_string":  # Azure's: NAME=VALUE;…
            yield from _values(dict(part.partition("=")[::2] for part in str(value).split(";")))
        elif isinstance(value, str) and len(value) >= _MIN_CHARS and key not in _WORDS:
            yield value.partition("://")[2].rstrip("/") or value  # errors name the host of a URL
