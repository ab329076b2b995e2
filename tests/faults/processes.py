"""Workers as whole machines: their processes by role, and every process that they left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import psutil
from commandline import command
from corpora import ROOT
from fleet import IMPATIENT, Worker, until

Role = Literal["parent", "consumer", "child", "device"]
ROLES: tuple[Role, ...] = ("parent", "consumer", "child", "device")


class Machine(Worker):
    """A `bei-jobs worker`.

    Args:
        url: of its Redis.
        directory: of its log and, unless the environment names another, its state.
        environment: added to that of this process.
        behind: words before its own, such as `unshare --mount`, which become the same process.
    """

    def __init__(
        self,
        url: str,
        directory: Path,
        environment: Mapping[str, str],
        behind: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True)
        self._log = directory / "worker.log"
        self.state_dir = Path(environment.get("BEI_JOBS_STATE_DIR", directory / "state"))
        self.url = url
        variables = {**IMPATIENT, "BEI_JOBS_STATE_DIR": str(self.state_dir), **environment}
        words = command("worker", "--broker", url, "--device", "cpu", "--verbose")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*behind, *words],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
            )

    def role(self, role: Role) -> psutil.Process:
        """The process with a role. Where devices have no process of their own, it is the child."""
        parent = psutil.Process(self.process.pid)
        if role == "parent":
            return parent
        consumer = _only(parent)
        if role == "consumer":
            return consumer
        child = _only(consumer)
        if role == "child":
            return child
        return next(iter(_workers_below(child)), child)

    def ready(self) -> None:
        """Wait until it has a child that takes messages."""
        until(self._has_child, "a worker to be ready")

    def _has_child(self) -> bool:
        try:
            return bool(self.role("child").is_running())
        except (LookupError, psutil.NoSuchProcess):
            return False

    def left(self) -> list[psutil.Process]:
        """Every living process of this machine, orphans too."""
        return list(_with_state(str(self.state_dir)))

    def kill(self) -> None:
        """SIGKILL to everything, as when a machine goes away."""
        while left := self.left():
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self.process.poll()
        self.process.wait()


def _only(process: psutil.Process) -> psutil.Process:
    found = _workers_below(process)
    if not found:
        raise LookupError(f"process {process.pid} has no child")
    return found[0]


def _workers_below(process: psutil.Process) -> list[psutil.Process]:
    """Its children, without multiprocessing's own helper."""
    return [
        child
        for child in process.children()
        if not any("resource_tracker" in word for word in child.cmdline())
    ]


def _with_state(state_dir: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("BEI_JOBS_STATE_DIR") == state_dir:
                yield process
        except psutil.Error:
            continue
