"""Build the documentation into a folder; anything that a reader would trip over is an error.

    scripts/site [FOLDER]

Zensical checks the links between pages and their headings; what it does not know (files, images,
HTML) is checked in what it wrote. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from links import broken_links, foreign_resources

ROOT = Path(__file__).resolve().parents[1]
# Laid out as in the repository, so that the links which work there work here.
SOURCES = (
    "README.md", "CHANGELOG.md", "LICENSE", "docs", "deploy", "examples", "website/style.css",
)  # fmt: skip
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


class SiteError(Exception):
    """What is wrong, by page."""


def layers(picture: str) -> list[str]:
    """The boxes of a Mermaid graph from top to bottom.

    Raises:
        SiteError: it is more than one chain of boxes.
    """
    labels = dict(re.findall(r'^\s*(\w+)\["([^"]+)"\]$', picture, re.MULTILINE))
    edges = re.findall(r"^\s*(\w+) --> (\w+)$", picture, re.MULTILINE)
    below = dict(edges)
    tops = set(below) - set(below.values())
    if len(tops) != 1 or len(below) != len(edges) or len(edges) != len(labels) - 1:
        raise SiteError(f"not a chain of boxes, which is all that the site can draw:\n{picture}")
    name, chain = tops.pop(), []
    while name:
        chain.append(labels[name])
        name = below.get(name, "")
    return chain


def _drawn(found: re.Match[str]) -> str:
    """A chain as HTML: Mermaid's own script is three megabytes, of another server."""
    boxes = "".join(f"<li>{html.escape(label)}</li>" for label in layers(found[1]))
    return f'<ol class="layers">{boxes}</ol>\n'


def lay_out(root: Path, pages: Path) -> None:
    """Copy what the site is made of, with the pictures drawn."""
    for name in SOURCES:
        source, target = root / name, pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    for page in pages.rglob("*.md"):
        page.write_text(_MERMAID.sub(_drawn, page.read_text()))


def build(root: Path, folder: Path) -> int:
    """Build the site of a repository.

    Args:
        root: the repository.
        folder: gets the site; what an earlier build left there is replaced.

    Returns:
        How many pages it has.

    Raises:
        SiteError: a warning of the generator, a broken link, or a page that loads something from
            another server.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lay_out(root, work / "pages")
        shutil.copy(root / "website/zensical.toml", work)
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            cwd=work, capture_output=True, text=True, env={"PATH": ""},
        )  # fmt: skip
        if done.returncode:
            said = done.stdout + done.stderr.partition("Traceback")[0]
            raise SiteError(_COLOUR.sub("", said))
        site = work / "site"
        wrong = [*broken_links(site), *foreign_resources(site)]
        if wrong:
            raise SiteError("\n".join(wrong))
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(site, folder)
    return len(list(folder.rglob("index.html")))


def main() -> int:
    """Build, and say where the site is."""
    parser = argparse.ArgumentParser(description="Build the documentation strictly.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build/site")
    folder = parser.parse_args().folder
    if folder.exists() and not (folder / "search.json").exists():
        print(f"{folder} exists and is no site: name another folder", file=sys.stderr)
        return 2
    try:
        pages = build(ROOT, folder)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{pages} pages: {folder}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
