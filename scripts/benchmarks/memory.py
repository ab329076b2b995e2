"""Peak memory of a job must grow neither with its rows nor with what they carry along.

One corpus, then the same ten times over; then few rows that keep a wide column: as JSON Lines, as
Parquet with pages of 1 MiB, and as Parquet with pages of 1,024 rows, which pyarrow writes.
Each job is a process of its own; its peak is what the kernel counted (ru_maxrss). The model's is
that of a job of one row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
    parser.add_argument("--wide-rows", type=int, default=4000, help="rows that keep a wide column")
    parser.add_argument("--wide-bytes", type=int, default=140_000, help="of it, in each row")


def run(options: argparse.Namespace, command: str) -> str:
    """Run all jobs and return the table."""
    rows, first = list[list[object]](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.jsonl"
        one.write_text('{"text": "one row"}\n')
        _, model = _submit(one, options)
        rows.append(["the model: 1 row", model, "", "", ""])
        for times in options.times:
            corpus = Path(folder) / f"corpus-{times}.parquet"
            _repeat(options.texts, corpus, times)
            said, peak = _submit(corpus, options)
            first = first or peak
            name = f"{said['rows']['done']:,} rows, {peak / first:.2f} of the first"
            rate = said["rows"]["done"] / said["seconds"]
            rows.append([name, peak, peak - model, _largest_part(said), rate])
        for kind in ("jsonl", "parquet", "pyarrow.parquet"):
            corpus = Path(folder) / kind / f"wide.{kind}"
            corpus.parent.mkdir()
            # Another process: a child's peak begins with what its parent holds.
            code = "import sys; from benchmarks.memory import write_wide; write_wide(*sys.argv[1:])"
            made = [str(corpus), str(options.wide_rows), str(options.wide_bytes)]
            paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts", ROOT / "tests")))
            environment = {**os.environ, "PYTHONPATH": paths}
            subprocess.run([sys.executable, "-c", code, *made], env=environment, check=True)
            said, peak = _submit(corpus, options, ["--keep", "body"])
            name = f"{options.wide_rows:,} rows of {options.wide_bytes:,} bytes kept, {kind}"
            rate = said["rows"]["done"] / said["seconds"]
            rows.append([name, peak, peak - model, _largest_part(said), rate])
    columns = ["job", "peak MiB", "above the model", "largest part MiB", "rows/s"]
    return header(command, "cpu") + "\n\n" + table(columns, rows)


def write_wide(corpus: str, rows: str, size: str) -> None:
    """Rows with a short text and a long one that is only kept."""
    rng = np.random.default_rng(0)
    texts = [f"text {row}" for row in range(int(rows))]
    bodies = [rng.bytes(int(size) // 2).hex() for _ in texts]
    if corpus.endswith(".parquet"):
        rows_at_once = 1024 if "pyarrow" in corpus else 8
        pq.write_table(pa.table({"text": texts, "body": bodies}), corpus,
                       write_batch_size=rows_at_once)  # fmt: skip
        return
    with Path(corpus).open("w") as file:
        for text, body in zip(texts, bodies, strict=True):
            file.write(json.dumps({"text": text, "body": body}) + "\n")


def _largest_part(said: dict) -> float:
    return max(part.stat().st_size for part in Path(said["output"]).glob("part-*")) / 2**20


def _repeat(texts: Path, corpus: Path, times: int) -> None:
    once = pq.read_table(texts, columns=["text"])
    with pq.ParquetWriter(corpus, once.schema) as writer:
        for number in range(times):  # equal texts would be computed once
            text = [f"{number} {text}" for text in once["text"].to_pylist()]
            writer.write_table(pa.table({"text": text}, once.schema))


def _submit(
    corpus: Path, options: argparse.Namespace, more: Sequence[str] = ()
) -> tuple[dict, float]:
    """The job's account of itself, and its peak resident memory in MiB."""
    words = ["submit", str(corpus), "--model", options.model, "--json", "--quiet"]
    words += ["--max-length", str(options.max_length), *more]
    process = subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    out = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the job failed: {out.decode()}")
    return json.loads(out), usage.ru_maxrss / 1024
