"""The control plane: shards a second through submit, Redis, a worker and commit.

One row a shard and a model of a few thousand weights, so that next to nothing is computed: what is
left is messages, leases and parts. Commits a second are taken from the parts' own times, first to
last; the whole command, which also imports, plans and waits for the manifest, stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import ROOT, header, table

_TINY = ROOT / "tests" / "goldens" / "bert_mean"
_SMALL = 10  # shards
_MAIN = [sys.executable, "-c", "from jobs.cli import main; main()"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench queue`."""
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the table."""
    if not shutil.which("redis-server"):
        raise SystemExit("queue needs redis-server on PATH")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The job's state and the workers' stay apart from the user's own.
        environment = {**os.environ, "BEI_JOBS_STATE_DIR": str(folder / "state")}
        with _redis(folder) as broker, _workers(broker, options.workers, environment):
            _submit(folder, broker, _SMALL, environment)  # the worker loads the model
            for shards in (_SMALL, options.shards):
                rows.append([options.workers, *_submit(folder, broker, shards, environment)])
    columns = ["workers", "shards", "s of the command", "s first to last commit", "shards/s"]
    return header(command, "cpu") + "\n\n" + table(columns, rows)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with _process(server, folder, dict(os.environ)):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _workers(broker: str, count: int, environment: dict[str, str]) -> Iterator[None]:
    if not count:
        yield
        return
    words = [*_MAIN, "worker", "--broker", broker, "--device", "cpu"]
    with _process(words, ROOT, environment), _workers(broker, count - 1, environment):
        yield


@contextmanager
def _process(words: list[str], cwd: Path, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        words, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _submit(
    folder: Path, broker: str, shards: int, environment: dict[str, str]
) -> tuple[int, float, float, float]:
    """Shards, seconds of the command and of its commits, commits a second."""
    work = Path(tempfile.mkdtemp(dir=folder))
    corpus, output = work / "corpus.parquet", work / "output"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(shards)]}), corpus)
    words = ["submit", str(corpus), "--output", str(output), "--model", str(_TINY), "--json"]
    words += ["--rows-per-shard", "1", "--broker", broker, "--wait", "--quiet"]
    start = time.perf_counter()
    done = subprocess.run(
        [*_MAIN, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode or json.loads(done.stdout)["rows"]["done"] != shards:
        raise SystemExit(f"the job failed: {done.stdout}{done.stderr}")
    commits = sorted(part.stat().st_mtime_ns / 1e9 for part in output.glob("*.arrow"))
    span = commits[-1] - commits[0]
    return shards, seconds, span, (shards - 1) / span
