"""The site is built strictly: no broken link, no page that nothing leads to, no foreign script."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from corpora import ROOT

sys.path.insert(0, str(ROOT / "website"))  # scripts of their own, and no package

import build
from links import broken_links, foreign_resources


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the site is made of, to break."""
    build.lay_out(ROOT, tmp_path / "repository")
    shutil.copy(ROOT / "website/zensical.toml", tmp_path / "repository/website")
    return tmp_path / "repository"


def nav_pages(node: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(node, str):
        return [node]
    below = node.values() if isinstance(node, dict) else node
    return [page for each in below for page in nav_pages(each)]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts/site"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site/index.html").read_text()
    assert "docs/demo.svg" in home
    assert 'class="layers"' in (tmp_path / "site/docs/design/index.html").read_text()
    assert "(prefers-color-scheme: dark)" in home
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def test_a_folder_that_is_no_site_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = [str(ROOT / "scripts/site"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    assert "name another folder" in done.stderr
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    "broken",
    [
        {
            "[x](no-such-page.md)": "page does not exist",
            "[x](design.md#no-such-heading)": "anchor does not exist",
        },
        {
            "[x](../deploy/no-such-file.yaml)": "no-such-file.yaml is not there",
            "![x](no-such-picture.svg)": "no-such-picture.svg is not there",
            '<a href="design/#no-such-heading">x</a>': "has no such heading",
            '<script src="https://cdn.example.com/x.js"></script>': "fetches https://cdn",
        },
        {"```mermaid\ngraph LR\n  a --> b\n  a --> c\n```": "not a chain"},
    ],
    ids=["for the generator", "for the checker of links", "pictures"],
)
def test_what_a_reader_would_trip_over_fails(
    repository: Path, tmp_path: Path, broken: dict[str, str]
) -> None:
    with (repository / "docs/start.md").open("a") as page:
        page.write("\n" + "\n\n".join(broken) + "\n")

    with pytest.raises(build.SiteError) as error:
        build.build(repository, tmp_path / "site")

    assert [said for said in broken.values() if said not in str(error.value)] == []
    assert not (tmp_path / "site").exists()


def test_every_page_is_in_the_navigation() -> None:
    project = tomllib.loads((ROOT / "website/zensical.toml").read_text())["project"]
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")}
    there |= {"README.md", "CHANGELOG.md", "examples/README.md"}

    assert sorted(nav_pages(project["nav"])) == sorted(there)


def test_the_links_of_a_page_are_those_that_a_browser_follows(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "index.html").write_text('<a href="a/b/#here">x</a> <a href="mailto:x@y">y</a>')
    (tmp_path / "a/b/index.html").write_text('<h1 id="here"><a href="../../">home</a></h1>')
    assert list(broken_links(tmp_path)) == []
    assert list(foreign_resources(tmp_path)) == []

    (tmp_path / "a/b/index.html").write_text('<h1 id="there"><a href="../../../">up</a></h1>')
    assert list(broken_links(tmp_path)) == [
        "a/b/index.html: ../../../ is not there",
        "index.html: a/b/#here has no such heading",
    ]
