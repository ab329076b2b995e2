"""The links of a built site, checked without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, and where it says what.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
_FETCHED_RELATIONS = {"stylesheet", "icon", "preload", "preconnect"}


class Page(HTMLParser):
    """What one page links to, fetches, and may be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values[name] for name in ("href", "src") if name in values]
        relation = set(values.get("rel", "").split())
        if tag in _FETCHED and (tag != "link" or relation & _FETCHED_RELATIONS):
            self.fetched += [values[key] for key in (_FETCHED[tag],) if key in values]


def _pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def broken_links(site: Path) -> Iterator[str]:
    """What is linked within the site and is not there: a file, or a heading of a page."""
    pages = _pages(site)
    for path, page in pages.items():
        if path.name == "404.html":  # its links are relative to wherever the reader strayed
            continue
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path)))
            target = target / "index.html" if target.is_dir() else target
            target = target if parts.path else path
            if not target.is_relative_to(site) or not target.is_file():
                yield f"{path.relative_to(site)}: {link} is not there"
            elif target in pages and parts.fragment:
                known = pages[target].anchors
                if unquote(parts.fragment) not in known:
                    yield f"{path.relative_to(site)}: {link} has no such heading"


def foreign_resources(site: Path) -> Iterator[str]:
    """What a page would fetch from another server."""
    for path, page in _pages(site).items():
        for link in page.fetched:
            if urlsplit(link).netloc:
                yield f"{path.relative_to(site)}: fetches {link}"
