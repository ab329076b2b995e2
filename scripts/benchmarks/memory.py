"""Peak memory of a job must not grow with its rows: one corpus, then the same ten times over.

Each job is a process of its own; its peak is what the kernel counted (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import EXAMPLES, ROOT, header, table

TINY = ROOT / "tests" / "goldens" / "bert_mean"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench memory`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument(
        "--times", type=int, nargs="+", default=[1, 10], help="how often the corpus, a job each"
    )
    parser.add_argument("--model", default=str(TINY), help="a tiny one, so that it takes minutes")
    parser.add_argument("--max-length", type=int, default=32)


def run(options: argparse.Namespace, command: str) -> str:
    """Run both jobs and return the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for times in options.times:
            corpus = Path(folder) / f"corpus-{times}.parquet"
            _repeat(options.texts, corpus, times)
            said, peak = _submit(corpus, options)
            rate = said["rows"]["done"] / said["seconds"]
            rows.append([f"{said['rows']['done']:,} rows", peak / 1024, rate])
    if len(rows) > 1:
        rows.append(["last / first", rows[-1][1] / rows[0][1], ""])
    return header(command, "cpu") + "\n\n" + table(["job", "peak MiB", "rows/s"], rows)


def _repeat(texts: Path, corpus: Path, times: int) -> None:
    once = pq.read_table(texts, columns=["text"])
    with pq.ParquetWriter(corpus, once.schema) as writer:
        for number in range(times):  # equal texts would be computed once
            text = [f"{number} {text}" for text in once["text"].to_pylist()]
            writer.write_table(pa.table({"text": text}, once.schema))


def _submit(corpus: Path, options: argparse.Namespace) -> tuple[dict, int]:
    """The job's account of itself, and its peak resident memory in KiB."""
    words = ["submit", str(corpus), "--model", options.model, "--json", "--quiet"]
    words += ["--max-length", str(options.max_length)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    out = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the job failed: {out.decode()}")
    return json.loads(out), usage.ru_maxrss
