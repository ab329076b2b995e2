"""A vector for each token, alone and beside other vectors, from the command line to the columns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, texts, write_parquet

from pipeline.output.part_file import encode_part, parse_info

MULTI = GOLDENS.parent / "multi_goldens"
COLBERT, M3 = MULTI / "colbert_v2", MULTI / "bge_m3"
TOLERANCE = 1e-4
WORDS = "the quick brown fox jumps over the lazy dog "


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MULTI / name / "cases.json").read_text())
    return found


def cases() -> list[tuple[str, list[str], Any]]:
    names = sorted(path.name for path in MULTI.iterdir() if path.is_dir())
    return [
        (name, [] if name == "bge_m3" else case["options"], case["expected"])
        for name in names
        for case in content(name)["cases"][: 1 if name == "bge_m3" else None]
    ]


def corpus(folder: Path, given: list[str | None], **columns: list[Any]) -> Path:
    pq.write_table(pa.table({"text": given, **columns}), folder / "c.parquet")
    return folder / "c.parquet"


def vectors(table: pa.Table, name: str = "vectors") -> list[Any]:
    return [None if row is None else np.array(row) for row in table[name].to_pylist()]


def assert_near(ours: list[Any], theirs: list[Any], tolerance: float = TOLERANCE) -> None:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(row, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "kind", "expected"), cases())
def test_vectors_are_those_of_the_authors_code(
    submit: Bei, bei: Bei, tmp_path: Path, name: str, kind: list[str], expected: Any
) -> None:
    path = corpus(tmp_path, content(name)["texts"])
    words = ("--model", MULTI / name, "--vectors", "multi", "--precision", "float32", *kind)
    assert submit(path, *words).code == 0
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    assert_near(vectors(table), expected)
