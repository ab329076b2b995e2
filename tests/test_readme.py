"""What the README tells a reader to type works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from corpora import ROOT

BIN = Path(sys.executable).parent


def python_blocks(markdown: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", markdown, flags=re.DOTALL | re.MULTILINE)


def run(directory: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_reader_of_the_readme_reads_a_job_output(tmp_path: Path) -> None:
    source = ROOT / "examples" / "corpus.parquet"
    run(tmp_path, "bei-jobs", "submit", str(source), "--output", "corpus.embed", "--limit", "20")
    (block,) = python_blocks((ROOT / "README.md").read_text())
    checks = "assert vectors.shape == (20, 384) and table.num_rows == len(frame) == 20"
    assert "20" in run(tmp_path, sys.executable, "-c", f"{block}\n{checks}\n")


def test_the_example_reader_names_the_row_itself_first(tmp_path: Path) -> None:
    source = ROOT / "examples" / "corpus.parquet"
    run(tmp_path, "bei-jobs", "submit", str(source), "--output", "corpus.embed", "--limit", "20")
    first_id = run(
        tmp_path,
        *(sys.executable, "-c"),
        f"import pyarrow.parquet as pq; print(pq.read_table({str(source)!r})['id'][0])",
    ).strip()
    script = ROOT / "examples" / "neighbours.py"
    nearest = run(tmp_path, sys.executable, str(script), "corpus.embed", first_id)
    assert re.findall(r"│ (\S+) +┆ \d", nearest)[0] == first_id
