"""A small fleet for the tests: real `bei-jobs worker` processes on a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from commandline import Bei, command
from corpora import ROOT, TINY

from pipeline.output.manifest import read_parts
from pipeline.output.output import Output, find_run

# Of a machine that has other things to do: nothing that works waits for it.
DEADLINE_S = 100.0
POLL_S = 0.02

# Short times, so that the tests of a fleet are fast.
IMPATIENT = {
    "OMP_NUM_THREADS": "1",
    "BEI_JOBS_RECONCILE_SECONDS": "0.3",
    "BEI_JOBS_LEASE_SECONDS": "1",
}


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until `condition` is true, and return its value."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_S)
    raise AssertionError(f"still waiting after {DEADLINE_S:.0f} s: {what or condition}")


#: A worker with another behaviour: the consumer, which is spawned, runs the first lines too.
SCRIPT = """{prelude}
if __name__ == "__main__":
    from jobs.cli import main
    main()
"""


class Worker:
    """One `bei-jobs worker` with its consumer and children.

    `prelude` is Python that its processes run first, to make it behave as another version would.
    """

    def __init__(self, url: str, directory: Path, prelude: str = "", **environment: str) -> None:
        directory.mkdir(parents=True)
        script = directory / "worker.py"
        script.write_text(SCRIPT.format(prelude=prelude))
        words = command("worker", "--broker", url, "--device", "cpu", "--verbose")[3:]
        self._log = directory / "worker.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *words],
                cwd=ROOT,
                env={
                    **os.environ,
                    **IMPATIENT,
                    "PYTHONPATH": str(ROOT),
                    "BEI_JOBS_STATE_DIR": str(directory / "state"),
                    **environment,
                },
                stdout=log,
                stderr=log,
            )
        self.state_dir = directory / "state"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def consumer(self) -> psutil.Process:
        """The process that takes messages."""
        children = psutil.Process(self.process.pid).children()
        consumers = [child for child in children if _is_consumer(child)]
        return consumers[0]

    def child(self) -> psutil.Process:
        """The process with the device, once there is one."""

        def first_child() -> psutil.Process | None:
            try:
                return next(iter(self.consumer.children()), None)
            except (IndexError, psutil.NoSuchProcess):
                return None

        child: psutil.Process = until(first_child, "a child with a device")
        return child

    def remembers(self) -> int:
        """How many open jobs it has on disk."""
        return len(list(self.state_dir.glob("queues/*/jobs/*.json")))

    def kill(self) -> None:
        """SIGKILL to the whole tree, as when a machine goes away."""
        try:
            family = [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(recursive=True),
            ]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def _is_consumer(process: psutil.Process) -> bool:
    # The other child of a process that spawned is multiprocessing's resource tracker.
    return any("spawn_main" in word for word in process.cmdline())


@dataclass
class Fleet:
    """Workers on one Redis, and the commands typed to them."""

    url: str
    directory: Path
    bei: Bei
    workers: list[Worker] = field(default_factory=list)

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self, prelude: str = "", **environment: str) -> Worker:
        """One more worker."""
        directory = self.directory / f"worker-{len(self.workers)}"
        worker = Worker(self.url, directory, prelude, **environment)
        self.workers.append(worker)
        return worker

    def submit(self, *words: object) -> str:
        """Enqueue a job without waiting for it; its id."""
        done = self.bei(
            "submit", *words, "--model", TINY, "--broker", self.url, "--no-wait", "--json"
        )
        assert done.code == 0, done.err
        job: str = done.json["job"]
        return job

    def state(self, output: object, *words: object) -> str:
        """What `bei-jobs status` says."""
        state: str = self.bei("status", output, *words, "--json").json["state"]
        return state

    def leases(self, job: str) -> list[str]:
        """Spans under way, as "start+count"."""
        keys = self.redis.scan_iter(f"bei:job:{job}:lease:*")
        return sorted(key.decode().rpartition(":")[2] for key in keys)

    def finish(self, output: object) -> None:
        """Wait for the manifest."""
        manifest = find_run(str(output))[1].path("manifest.json")
        directory = Output(str(output)).directory
        until(lambda: directory.exists(manifest), f"a manifest in {output}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"--- worker {i}\n{w.log}" for i, w in enumerate(self.workers))

    def check(self, output: object, rows: int) -> None:
        """Every input row is there exactly once."""
        verified = self.bei("verify", output, "--json")
        assert verified.code == 0, verified.out + verified.err
        store, run = find_run(str(output))
        parts = read_parts(store, run)
        assert sum(parts["rows"].to_pylist()) == rows == run.rows
        assert len(set(parts["part"].to_pylist())) == parts.num_rows
        names = {item.name for item in store.directory.list() if item.name.endswith(".arrow")}
        assert names == set(parts["part"].to_pylist())

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
