"""Faults on real processes. CI runs those marked `quick`; `scripts/chaos matrix` runs all.

The environment variable CHAOS=all stands for the second, and prints the table at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import typed
from corpora import TINY
from faults.case import OPTIONS, Case
from faults.checks import Rows
from faults.matrix import BROKEN, Line, table
from fixtures_redis import RedisServer

ALL = os.environ.get("CHAOS") == "all"
TIMEOUT_S = 300
LINES = pytest.StashKey[list[Line]]()
LINE = pytest.StashKey[Line]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []
    config.addinivalue_line("markers", "quick: a fault that takes seconds; CI runs it")
    config.addinivalue_line("markers", "kind(name): of the faults of a test, for the table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))
    slow = [item for item in here if not item.get_closest_marker("quick")]
    if slow and not ALL:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    line = item.stash.get(LINE, None)
    if line is not None and report.when == "call" and report.failed:  # type: ignore[attr-defined]
        letter = str(getattr(report.longrepr, "reprcrash", "")).partition("Violation: ")[2][:1]  # type: ignore[attr-defined]
        line.marks[letter if letter in line.marks else "P"] = BROKEN
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash[LINES]
    if ALL and lines:
        terminalreporter.write_line("")
        terminalreporter.write_line(table(lines))


@pytest.fixture(autouse=True)
def own_machine(own_machine: None) -> None:
    """For every test here."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Rows]:
    """The rows of a corpus as one process computes them in peace."""
    known: dict[bytes, Rows] = {}

    def compute(corpus: Path) -> Rows:
        content = corpus.read_bytes()
        if content not in known:
            output = tmp_path_factory.mktemp("undisturbed") / "out"
            words = ("--output", output, "--model", TINY, "--device", "cpu", "--quiet")
            done = typed("submit", corpus, *words, *OPTIONS)
            assert done.code in (0, 3), done.err
            known[content] = Rows.read(output)
        return known[content]

    return compute


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    """A Redis without persistence that the test may kill."""
    return redis_server()


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Line:
    """The line of the table for this test."""
    kind = request.node.get_closest_marker("kind")
    name = request.node.originalname.removeprefix("test_").replace("_", " ")
    spec = getattr(request.node, "callspec", None)
    fault = f"{name}: {spec.id}" if spec else name
    line = Line(kind.args[0] if kind else "", fault, request.node.path.name)
    request.config.stash[LINES].append(line)
    request.node.stash[LINE] = line
    return line


@pytest.fixture
def case(
    tmp_path: Path, server: RedisServer, line: Line, undisturbed: Callable[[Path], Rows]
) -> Iterator[Case]:
    """A fleet without workers, which judges itself."""
    case = Case(tmp_path, server, line, undisturbed)
    yield case
    case.close()
