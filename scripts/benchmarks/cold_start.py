"""`bei-jobs submit` of one row in a fresh process, weights on disk: the whole, and its imports.

The second submit of a model is measured: the first also hashes the weights and remembers it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import EXAMPLES, ROOT, header, read_texts, table, timed
from benchmarks.shapes import SHAPES, checkpoint_of
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL

_SUBMIT = "from jobs.cli import main; main()"
# What the native path has loaded by the time its first row is computed.
_IMPORTS = "import jobs.cli, jobs.commands.submit, jobs.run_job, pipeline.run, workers.local"
_FOREIGN = "transformers"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench cold-start`."""
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="or a shape of `encode`")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "one.parquet"
        pq.write_table(pa.table({"text": ["One row, to see how soon it is there."]}), corpus)
        output = folder / "output"
        model = options.model
        if model in SHAPES:
            model = str(checkpoint_of(model, folder, read_texts(EXAMPLES, 3000), "cpu"))
        words = ["submit", str(corpus), "--output", str(output), "--model", model, "--quiet"]

        def submit() -> None:
            shutil.rmtree(output, ignore_errors=True)
            _python(_SUBMIT, folder, *words)

        submit()
        rows = []
        for what, work in {
            "submit of one row": submit,
            "of which imports": lambda: _python(_IMPORTS, folder),
            "import torch alone": lambda: _python("import torch", folder),
            "an empty process": lambda: _python("", folder),
        }.items():
            seconds = [timed(work) for _ in range(options.repeats)]
            rows.append([what, statistics.median(seconds), min(seconds)])
        loaded = _python(f"{_IMPORTS}\nimport sys\nprint({_FOREIGN!r} in sys.modules)", folder)
    columns = ["", "median s", "least s"]
    note = f"`{_FOREIGN}` imported on the way: {loaded.strip()}"
    return header(command, "cpu") + "\n\n" + table(columns, rows) + "\n\n" + note


def _python(code: str, state: Path, *words: str) -> str:
    """Run code in a fresh interpreter with a state of its own; what it printed."""
    environment = {**os.environ, "BEI_JOBS_STATE_DIR": str(state / "state")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words) or code} failed: {done.stderr}")
    return done.stdout
