"""Globs name the files that DuckDB and polars read, or it is said in which way they differ."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples.globs import FILES, FOREIGN, FOUND, GLOBS, LINKED_FILE, LINKS, Glob

from pipeline.errors import InputError
from pipeline.input.discovery import discover
from pipeline.store.directory import Directory

IDS = [each.pattern for each in GLOBS]


def plant(root: Path, foreign: Sequence[str]) -> Path:
    """The tree of the globs, on disk."""
    for name in (*(f"tree/{file}" for file in FILES), f"elsewhere/{LINKED_FILE}"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [name]}), path)
    for name in foreign:
        (root / "tree" / name).parent.mkdir(exist_ok=True)
        (root / "tree" / name).write_text("{}")
    for link, target in LINKS.items():
        (root / "tree" / link).symlink_to(target)
    return root / "tree"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("globs"), FOREIGN)


@pytest.fixture(scope="module")
def tree_of_parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For readers that stop at any other file."""
    return plant(tmp_path_factory.mktemp("parquet"), ())


def put_all(uri: str) -> str:
    """The same tree where there are no links."""
    for name in (*FILES, *FOREIGN, f"linked/{LINKED_FILE}"):
        Directory(uri).put(name, b"x")
    return uri


def found(root: str, pattern: str) -> list[str]:
    try:
        return sorted(file.uri.removeprefix(f"{root}/") for file in discover([f"{root}/{pattern}"]))
    except InputError as error:
        return [] if re.search("does not exist|matches no file", str(error)) else [str(error)]


def in_duckdb(path: str) -> list[str]:
    query = "SELECT DISTINCT filename FROM read_parquet(?, filename=true, hive_partitioning=false)"
    return [file for (file,) in duckdb.execute(query, [path]).fetchall()]


def in_polars(path: str) -> list[str]:
    frame = pl.scan_parquet(path, include_file_paths="file", hive_partitioning=False)
    return frame.select("file").collect()["file"].unique().to_list()


def inputs_of(reader: Callable[[str], list[str]], tree: Path, each: Glob) -> list[str]:
    """What another reader finds, less what is no input: hidden names, outputs, links to files.

    A hidden name that was typed is one, and so is an output.
    """
    try:
        files = reader(f"{tree}/{each.pattern}")
    except (duckdb.Error, pl.exceptions.PolarsError, FileNotFoundError):
        return []
    names = {os.path.normpath(file).removeprefix(f"{tree}/") for file in files}
    typed = each.pattern.partition("*")[0]
    return sorted(
        name
        for name in names
        if name not in LINKS
        and (typed.startswith("made") or not name.startswith("made"))
        and (typed.startswith(("_", ".")) or not name.startswith(("_", ".")))
    )


@pytest.mark.parametrize("each", GLOBS, ids=IDS)
def test_a_glob_names_its_files(tree: Path, each: Glob) -> None:
    assert found(str(tree), each.pattern) == each.paths


@pytest.mark.parametrize(
    ("reader", "name"), [(in_duckdb, "duckdb"), (in_polars, "polars")], ids=["duckdb", "polars"]
)
def test_others_find_the_same_or_it_is_said_why_not(
    tree_of_parquet: Path, reader: Callable[[str], list[str]], name: str
) -> None:
    wrong = {
        each.pattern: theirs
        for each in GLOBS
        for theirs in [inputs_of(reader, tree_of_parquet, each)]
        if (theirs == each.paths) != (getattr(each, name) == FOUND)
    }

    assert wrong == {}


#: In a bucket, `//`, `.` and `..` are part of a name.
PLAIN = [
    each for each in GLOBS if not {"", ".", ".."} & {*each.pattern.removesuffix("/").split("/")}
]


def test_a_store_without_links_gives_the_same() -> None:
    root = put_all(f"memory://globs-{uuid.uuid4().hex}/tree")

    assert {each.pattern: found(root, each.pattern) for each in PLAIN} == {
        each.pattern: each.paths for each in PLAIN
    }
    assert len(PLAIN) == len(GLOBS) - 3


def test_a_bucket_gives_the_same(s3: Any) -> None:
    """Every fifth glob: a request to it takes long."""
    root = put_all(f"s3://{s3.make_bucket()}/tree")

    assert {each.pattern: found(root, each.pattern) for each in PLAIN[::5]} == {
        each.pattern: each.paths for each in PLAIN[::5]
    }
