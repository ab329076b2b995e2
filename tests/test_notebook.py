"""The notebook of the examples runs from its first cell to its last, and is kept as it ran."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.parquet as pq
import pytest
from commandline import forget_the_user
from corpora import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples/search.ipynb"


def cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    return "".join(output.get("text", "") or output.data["text/plain"] for output in cell.outputs)


@pytest.mark.timeout(300)
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_user(monkeypatch, tmp_path / "state", tmp_path / "cache")
    pq.write_table(
        pq.read_table(ROOT / "examples/corpus.parquet").slice(0, 300), tmp_path / "corpus.parquet"
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    *_, searched, night, verified = map(shown, cells(notebook))
    assert len(re.findall(r"^│ python3-", searched, re.MULTILINE)) == 3
    assert "total=300" in night
    assert "computed=1, reused=299" in night
    assert "ok=True" in verified


def test_the_notebook_shows_a_whole_run_and_nothing_of_the_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)

    assert [cell.execution_count for cell in cells(notebook)] == [
        *range(1, len(cells(notebook)) + 1)
    ]
    assert all(shown(cell) for cell in cells(notebook))
    assert not re.search(r"/(tmp|home|root|work|Users)\b", NOTEBOOK.read_text())
    assert "computed=2975" in shown(cells(notebook)[2])  # all of the corpus, less 25 duplicates
