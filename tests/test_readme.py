"""What the README tells a reader to type works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpora import ROOT

BIN = Path(sys.executable).parent
SOURCE = ROOT / "examples" / "corpus.parquet"


def python_blocks(markdown: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", markdown, flags=re.DOTALL | re.MULTILINE)


def run(directory: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the vectors of twenty rows in corpus.embed."""
    folder = tmp_path_factory.mktemp("embedded")
    run(folder, "bei-jobs", "submit", str(SOURCE), "--output", "corpus.embed", "--limit", "20")
    return folder


def test_every_reader_of_the_readme_reads_a_job_output(embedded: Path) -> None:
    (block,) = python_blocks((ROOT / "README.md").read_text())
    checks = "assert vectors.shape == (20, 384) and table.num_rows == len(frame) == 20"
    assert "20" in run(embedded, sys.executable, "-c", f"{block}\n{checks}\n")


def test_the_example_reader_names_the_row_itself_first(embedded: Path) -> None:
    first_id = pq.read_table(SOURCE)["id"][0].as_py()
    script = ROOT / "examples" / "neighbours.py"
    nearest = run(embedded, sys.executable, str(script), "corpus.embed", first_id)
    assert re.findall(r"│ (\S+) +┆ \d", nearest)[0] == first_id
