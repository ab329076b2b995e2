"""The house is as docs/design.md draws it, and stays so."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import ROOT

from pipeline.request import TASK_NAMES
from pipeline.tasks import TASKS

PACKAGES = ("bei_jobs", "jobs", "workers", "pipeline")
#: Test folder → what its tests may import of ours, directly or through a helper of the tests.
FLOORS = {
    "pipeline": {"pipeline"},
    "gpu": {"pipeline"},
    "workers": {"pipeline", "workers"},
}


def contracts() -> dict[str, dict[str, Any]]:
    """Name → contract of import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {each["name"]: each for each in settings["tool"]["importlinter"]["contracts"]}


def drawn(title: str) -> list[str]:
    """The layers of a picture in docs/design.md from top to bottom, siblings separated alike."""
    page = (ROOT / "docs/design.md").read_text()
    (picture,) = [p for p in re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL) if title in p]
    labels = dict(re.findall(r'^\s*(\w+)\["([^"]+)"\]', picture, re.MULTILINE))
    edges = re.findall(r"^\s*(\w+) --> (\w+)$", picture, re.MULTILINE)
    below = dict(edges)
    (top,) = set(below) - set(below.values())
    chain = [top]
    while chain[-1] in below:
        chain.append(below[chain[-1]])
    return [labels[name] for name in chain]


def siblings(layer: str) -> set[str]:
    return set(re.split(r"\s*[|:·]\s*", layer))


@pytest.mark.parametrize(
    ("title", "contract"),
    [
        ("%% packages", "bei_jobs → jobs → workers → pipeline"),
        ("%% layers of pipeline", "layers of pipeline"),
        ("%% layers of encoder", "layers of pipeline.encoder"),
    ],
)
def test_the_pictures_are_the_contracts(title: str, contract: str) -> None:
    layers = contracts()[contract]["layers"]

    assert [siblings(each) for each in drawn(title)] == [siblings(each) for each in layers]


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def names(node: ast.AST) -> set[str]:
    """The names, attributes and strings that an expression is made of."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            found.add(inner.value)
    return found


def test_nothing_outside_its_file_asks_which_task_it_is() -> None:
    asking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("jobs", "workers", "pipeline")
        if path.parent != ROOT / "pipeline/tasks"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and names(node) & TASKS.keys()
    ]

    assert asking == []


def test_the_command_line_has_the_names_of_all_tasks() -> None:
    assert tuple(TASKS) == TASK_NAMES


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, those of its functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def reached(path: Path) -> set[str]:
    """Our packages that a test file imports, through the helpers beside tests/conftest.py too."""
    helpers = {p.stem: p for p in (ROOT / "tests").glob("*.py")}
    seen: set[str] = set()
    waiting = imported(path)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting |= imported(helpers[name]) if name in helpers else set()
    return seen & set(PACKAGES)


@pytest.mark.parametrize("floor", FLOORS)
def test_the_tests_of_a_floor_import_no_higher_one(floor: str) -> None:
    higher = {
        str(path.relative_to(ROOT)): reached(path) - FLOORS[floor]
        for path in sources(f"tests/{floor}")
    }

    assert {path: found for path, found in higher.items() if found} == {}


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python before 3.11.5 matches `(...)*+` wrongly (cpython issue 106052): `(?>(...)*)`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str | bytes)
        and re.search(r"\)[*+?}]\+", str(node.value))
    ]

    assert wrong == []
