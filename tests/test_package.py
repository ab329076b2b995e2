"""What is built from this clone, the wheel and the sdist, and what somebody has who installs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from commandline import forget_the_user
from corpora import ROOT, TINY

PACKAGES = ("bei_jobs", "jobs", "pipeline", "workers")


def run(*command: object, **options: Any) -> str:
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this clone, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_twine_finds_nothing_to_say(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


def sources(*folders: str) -> set[str]:
    """The files that git knows, or would take."""
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return set(run(*listing, "--", *folders, cwd=ROOT).strip("\0").split("\0"))


def test_the_wheel_holds_our_four_packages_and_what_a_shell_reads_and_nothing_else(
    wheel: Path,
) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    shared = {name for name in names if ".data/data/share/" in name}

    assert {name.partition(".data/data/")[2] for name in shared} == sources("share")
    assert names - shared == sources(*PACKAGES)
    kinds = {Path(name).suffix for name in names - shared}
    assert kinds <= {".css", ".html", ".js", ".jsonl", ".py", ".pyi", ".typed"}


def test_the_sdist_holds_the_whole_clone(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    assert names - {"PKG-INFO"} == sources()


def test_the_clone_builds_the_wheel_that_its_sdist_builds(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT)

    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_pythons_that_are_named_begin_with_the_lowest_that_is_let_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)

    assert named == ["3.11", "3.12", "3.13", "3.14"]  # what scripts/pythons tries
    assert project["requires-python"] == f">={named[0]}"


@pytest.fixture(scope="module")
def licences() -> str:
    return run(sys.executable, ROOT / "scripts/licences")


def test_the_page_of_licences_is_up_to_date(licences: str) -> None:
    def direct(page: str) -> list[str]:
        return [line for line in page.splitlines() if line.startswith("| **")]

    assert direct((ROOT / "docs/licences.md").read_text()) == direct(licences), (
        "run: python scripts/licences > docs/licences.md"
    )


@pytest.fixture(scope="module")
def installed(wheel: Path, licences: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `python` of a new environment: the wheel, and links to the packages that it declares.

    These are the ones that the page of licences lists for it.
    """
    environment = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
    for name in re.findall(r"^\| \**([\w.-]+)\** \|.*\| bei-jobs \|$", licences, re.MULTILINE):
        link(name, site)
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel
    )
    return python


def link(name: str, site: Path) -> None:
    """Put a package of this environment into another."""
    package = distribution(name)
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(package.locate_file(top))))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory outside the clone, with nothing of it on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    forget_the_user(monkeypatch, tmp_path / "state", tmp_path / "cache")


@pytest.mark.usefixtures("elsewhere")
def test_with_nothing_but_what_it_declares_the_installed_wheel_runs_a_job(installed: Path) -> None:
    command, source = installed.parent / "bei-jobs", ROOT / "examples/corpus.parquet"
    run(command, "submit", source, "--output", "out", "--limit", 20, "--model", TINY)

    program = "import bei_jobs, pipeline; print(bei_jobs.verify('out').rows, pipeline.__file__)"
    rows, file = run(installed, "-c", program).split()
    assert rows == "20"
    assert Path(file).is_relative_to(installed.parents[1])


TYPED = """
import bei_jobs

job: bei_jobs.Job = bei_jobs.submit("corpus.parquet", max_length=256)
rows: int = job.wait().rows.computed
"""


@pytest.mark.usefixtures("elsewhere")
def test_the_types_of_the_installed_package_reach_a_program(
    installed: Path, tmp_path: Path
) -> None:
    program, cache = tmp_path / "program.py", tmp_path / "cache"
    check = (sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed))
    program.write_text(TYPED)
    run(*check, "--cache-dir", cache, program)

    program.write_text(TYPED.replace("max_length=256", 'max_length="long"'))
    wrong = subprocess.run(
        [*check, "--cache-dir", str(cache), str(program)], capture_output=True, text=True
    )
    assert '"max_length" to "submit"' in wrong.stdout, wrong.stdout
