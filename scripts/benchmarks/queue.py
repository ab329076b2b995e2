"""The control plane: shards a second through submit, Redis, a worker and commit, and its memory.

One row a shard and a model of a few thousand weights, so that next to nothing is computed: what is
left is messages, leases and parts. The sizes are ten shards, then 1,000 and each power of ten up to
--shards, so that a cost that grows faster than the shards shows. Commits a second are taken from
the parts' own times, first to last. Beside them stands what each command took, which includes
starting Python, and its peak memory.

--plan N plans N shards and computes none.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from benchmarks.common import ROOT, header, table

TINY = ROOT / "tests" / "goldens" / "bert_mean"
_SMALL = 10  # shards
MAIN = [sys.executable, "-c", "from jobs.cli import main; main()"]
# A process begins with the peak memory of the one that started it, so a small one starts commands.
_MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([time.perf_counter() - start, cpu, usage.ru_maxrss / 1024]))
sys.exit(code)
"""
_COMMANDS = ["command", "shards", "s", "CPU s", "peak MB"]
_QUEUE = ["workers", "shards", "s first to last commit", "shards/s", "Redis MB at most"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench queue`."""
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plan", type=int, default=0, metavar="N", help="only plan N shards")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    if not shutil.which("redis-server"):
        raise SystemExit("queue needs redis-server on PATH")
    count = 0 if options.plan else options.workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The job's state and the workers' stay apart from the user's own.
        environment = {**os.environ, "BEI_JOBS_STATE_DIR": str(folder / "state")}
        with redis_server(folder) as broker, workers(broker, count, environment):
            if options.plan:
                tables = [table(_COMMANDS, _Job(folder, broker, options.plan, environment).plan())]
            else:
                _Job(folder, broker, _SMALL, environment).run()  # the worker loads the model
                jobs = [_Job(folder, broker, n, environment) for n in _sizes(options.shards)]
                costs = [row for job in jobs for row in job.run()]
                rows = [[count, job.shards, *job.commits()] for job in jobs]
                tables = [table(_QUEUE, rows), table(_COMMANDS, costs)]
    return "\n\n".join([header(command, "cpu"), *tables])


def _sizes(largest: int) -> list[int]:
    """Ten shards, 1,000 and each power of ten up to the largest."""
    powers = [10**n for n in range(3, 9) if 10**n < largest]
    return [_SMALL, *powers, largest]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of its own; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with _process(server, folder, dict(os.environ)):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def workers(broker: str, count: int, environment: dict[str, str]) -> Iterator[None]:
    """So many workers on this machine."""
    if not count:
        yield
        return
    words = [*MAIN, "worker", "--broker", broker, "--device", "cpu"]
    with _process(words, ROOT, environment), workers(broker, count - 1, environment):
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


class _Job:
    """A corpus of so many rows, one shard each, and the commands on it."""

    def __init__(self, folder: Path, broker: str, shards: int, environment: dict[str, str]) -> None:
        self.shards = shards
        self._broker, self._environment = broker, environment
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._output = self._folder / "output"
        self._redis_mb = 0.0
        corpus = self._folder / "corpus.parquet"
        pq.write_table(pa.table({"text": [f"row {i}" for i in range(shards)]}), corpus)
        words = ["submit", str(corpus), "--output", str(self._output), "--model", str(TINY)]
        words += ["--rows-per-shard", "1", "--broker", broker, "--json", "--quiet"]
        self._submit = words

    def plan(self) -> list[list[object]]:
        """The costs of planning it, of its status, and of joining it."""
        return [
            self._cost("submit", self._submit),
            self._cost("status", ["status", str(self._output), "--json"]),
            self._cost("submit again", self._submit),
        ]

    def run(self) -> list[list[object]]:
        """The costs of the commands of a job that workers compute, status asked when it is done."""
        costs = [
            self._cost("submit", self._submit),
            self._cost("submit --wait", [*self._submit, "--wait"]),
        ]
        self._redis_mb = redis.Redis.from_url(self._broker).info("memory")["used_memory_peak"] / 1e6
        return [
            *costs,
            self._cost("status", ["status", str(self._output), "--json"]),
            self._cost("verify", ["verify", str(self._output), "--json"]),
            self._cost("submit again", self._submit),
        ]

    def commits(self) -> tuple[float, float, float]:
        """Seconds from the first to the last commit, commits a second, MB of Redis at most."""
        times = sorted(part.stat().st_mtime_ns / 1e9 for part in self._output.glob("*.arrow"))
        span = times[-1] - times[0]
        return span, (self.shards - 1) / span, self._redis_mb

    def _cost(self, name: str, words: list[str]) -> list[object]:
        """Name, shards, seconds, CPU seconds and peak resident MB of one command."""
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *MAIN, *words],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr}")
        return [name, self.shards, *json.loads(done.stdout)]
