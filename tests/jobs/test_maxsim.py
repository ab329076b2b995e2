"""`--task rerank` by late interaction: MaxSim of each layout, from the command line to the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS

MULTI = GOLDENS.parent / "multi_goldens"
NAMES = tuple(sorted(path.name for path in MULTI.iterdir() if path.is_dir()))
COLBERT = MULTI / "colbert_v2"
RERANK = ("--task", "rerank", "--precision", "float32")


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MULTI / name / "cases.json").read_text())
    return content


def lists(file: Path, queries: list[str | None], documents: list[Any], **columns: Any) -> Path:
    pq.write_table(pa.table({"query": queries, "documents": documents, **columns}), file)
    return file


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_authors_code(
    name: str, precision: str, tmp_path: Path, submit: Bei, bei: Bei
) -> None:
    given = golden(name)["rerank"]
    corpus = lists(tmp_path / "c.parquet", given["queries"], given["documents"])
    words = ("--task", "rerank", "--model", MULTI / name, "--precision", precision)
    done = submit(corpus, *words, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert bei("verify", tmp_path / "out").code == 0
    table = read_output(bei, tmp_path / "out")
    for row, expected in zip(table.to_pylist(), given["scores"], strict=True):
        # A query of these has at most 64 tokens, whose products differ by at most 0.01 each.
        bound = 1e-4 if precision == "float32" else 0.02 * 16
        np.testing.assert_allclose(row["scores"], expected, rtol=0, atol=bound)
        best_first = np.argsort(-np.array(row["scores"]), kind="stable")
        assert row["ranking"] == best_first.tolist()
