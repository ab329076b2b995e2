"""Pages as the tests read them: strictly, and as a browser shows them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import pytest
from commandline import Bei
from corpora import ROOT

AXE = ROOT / ".venv/axe"
_VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})
# Of SVG, that have no content here.
_EMPTY = frozenset({"rect", "line", "path"})
_LINKS = frozenset({"src", "href", "srcset", "action", "data", "poster", "xlink:href"})


@dataclass
class Page(HTMLParser):
    """A page that was read strictly: an error where a tag is not closed, or closed twice."""

    text: str
    scripts: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.links += [value or "" for name, value in attrs if name in _LINKS]
        self.handlers += [name for name in names if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _EMPTY | _VOID, tag
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside == "title" and "svg" in self._open:
            self.titles.append(data)
        elif inside != "style":
            self.words.append(data)

    @property
    def said(self) -> str:
        """What a person reads, with single spaces."""
        return " ".join(" ".join(self.words).split())


def refuse_what_is_fetched(page: Page) -> None:
    """Check that a page is whole in itself."""
    assert all(link.startswith(("data:", "#")) for link in page.links), page.links
    assert "default-src 'none'" in page.text
    styles = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert styles
    assert not re.search(r"url\(|@import", "".join(styles))
    assert page.handlers == []
    assert len(page.ids) == len(set(page.ids))


def _missing(what: str) -> NoReturn:
    how = f"{what} is missing: scripts/test installs it where CI=true"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(how)


_LOOK = """
const seen = {};
const dot = document.querySelector("figure.scatter circle[tabindex='0']");
if (dot) {
  dot.focus();
  seen.first = document.querySelector(".shown").textContent;
  dot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  dot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  seen.next = document.querySelector(".shown").textContent;
  seen.stops = document.querySelectorAll("figure.scatter circle[tabindex='0']").length;
}
seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
seen.wider = document.documentElement.scrollWidth - innerWidth;
axe.run().then((found) => {
  seen.violations = found.violations.map((each) => [each.id, each.nodes.map((n) => n.html)]);
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
"""


def looked_at(page: str, folder: Path, *, dark: bool, width: int = 1000) -> dict[str, Any]:
    """What Chromium and axe see of a page; `console` is what Chromium's console says."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        _missing("chromium")
    if not (AXE / "version").exists():  # written when all of it is there
        _missing("axe-core")
    axe = (AXE / "node_modules/axe-core/axe.min.js").read_text()
    file = folder / "page.html"
    assert page.count("</body>") == 1
    file.write_text(
        page.replace("</body>", f"<script>{axe}</script><script>{_LOOK}</script></body>")
    )
    words = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
        "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},900",
        "--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        [chromium, *words], capture_output=True, text=True, timeout=100, check=True
    )
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(seen[1].replace("&quot;", '"').replace("&amp;", "&"))
    return {**found, "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


def written(bei: Bei, output: object, folder: Path, *words: object) -> Page:
    """The page of an output, as a person reads it."""
    done = bei("report", output, folder / "r.html", *words)
    assert done.code == 0, done.err
    text = (folder / "r.html").read_text()
    assert len(text.encode()) < 1_000_000
    read = Page(text)
    refuse_what_is_fetched(read)
    return read
