"""How long commands take that compute next to nothing: fresh processes, weights on disk.

`bei-jobs submit` of one row, when each of its steps is reached, and the commands that are typed or
run by monitors. The second submit of a model is measured: the first also hashes its weights and
tries this CPU's precisions, and remembers both. Seconds of CPU are those of all its processes, the
memory is that of the command's own.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import EXAMPLES, ROOT, header, read_texts, table
from benchmarks.shapes import SHAPES, checkpoint_of
from pipeline.request import DEFAULT_MODEL

_COMMAND = "from bei_jobs.__main__ import main; main()"
# Prints the most memory that the process had, when it ends.
_MEMORY = """
import atexit, sys
atexit.register(lambda: sys.stderr.write(open("/proc/self/status").read()))
"""
# The command, and when each step is reached, from the start of the interpreter on.
_TIMELINE = f"""
import os, time
from workers.device_process import DeviceProcess
start, run = DeviceProcess.start, DeviceProcess.run
def reached(what):
    print(what, time.time() - float(os.environ["BEGUN"]), sep="\t", flush=True)
def started(self):
    if self._process is None:
        reached("start")
    start(self)
def events(self, order, should_stop):
    reached("planned")
    for kind, value in run(self, order, should_stop):
        reached(kind)
        yield kind, value
DeviceProcess.start, DeviceProcess.run = started, events
{_COMMAND}
"""
_MOMENTS = {
    "start": "the device's process is started",
    "planned": "the run is planned",
    "loaded": "torch and the model are there",
    "batch": "the first vector",
    "result": "its part is committed",
    "end": "the command ends",
}
# What a device's process has loaded by the time its first row is computed.
_IMPORTS = "import workers.device_main, pipeline.canary, pipeline.run"
_FOREIGN = "transformers"


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one command took."""

    seconds: float
    cpu: float  # seconds of user and system
    memory: float  # MB


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench cold-start`."""
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="or a shape of `encode`")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model
        if model in SHAPES:
            model = str(checkpoint_of(model, folder, read_texts(EXAMPLES, 3000), "cpu"))
        processes = _Processes(folder, model)
        works = processes.works()
        costs: dict[str, list[_Cost]] = {what: [] for what in works}
        moments: list[dict[str, float]] = []
        for _ in range(options.repeats):  # interleaved: a busy machine slows all of them
            for what, work in works.items():
                costs[what].append(work())
            moments.append(processes.timeline())
        loaded = processes.python(f"{_IMPORTS}\nimport sys\nprint({_FOREIGN!r} in sys.modules)")
    rows = [
        [
            what,
            statistics.median(each.seconds for each in found),
            min(each.seconds for each in found),
            min(each.cpu for each in found),
            max(each.memory for each in found),
        ]
        for what, found in costs.items()
    ]
    steps = [
        [text, *(f([each[key] for each in moments]) for f in (statistics.median, min))]
        for key, text in _MOMENTS.items()
    ]
    return "\n\n".join(
        [
            header(command, "cpu"),
            table(["", "median s", "least s", "least CPU s", "peak MB"], rows),
            table(["submit of one row: until", "median s", "least s"], steps),
            f"`{_FOREIGN}` imported on the way: {loaded.strip()}",
        ]
    )


class _Processes:
    """Fresh interpreters with a state of their own, an input of one row, and its finished job."""

    def __init__(self, folder: Path, model: str) -> None:
        self._environment = {**os.environ, "BEI_JOBS_STATE_DIR": str(folder / "state")}
        self._fresh, self._done = folder / "fresh", folder / "done"
        corpus = folder / "one.parquet"
        pq.write_table(pa.table({"text": ["One row, to see how soon it is there."]}), corpus)
        self._submit = ["submit", str(corpus), "--model", model, "--quiet", "--output"]
        self._cost(_COMMAND, *self._submit, str(self._done))

    def works(self) -> dict[str, Callable[[], _Cost]]:
        """What is measured."""
        again = (*self._submit, str(self._done))
        return {
            "submit of one row": self._first,
            "submit again, nothing to do": lambda: self._cost(_COMMAND, *again),
            "status": lambda: self._cost(_COMMAND, "status", str(self._done)),
            "list": lambda: self._cost(_COMMAND, "list"),
            "--version": lambda: self._cost(_COMMAND, "--version"),
            "submit --help": lambda: self._cost(_COMMAND, "submit", "--help"),
            "a word completed by a shell": self._complete,
            "imports of a device's process": lambda: self._cost(_IMPORTS),
            "import torch alone": lambda: self._cost("import torch"),
            "an empty process": lambda: self._cost(""),
        }

    def timeline(self) -> dict[str, float]:
        """Moment → seconds after the start of a submit of one row."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        begun = time.time()
        words = (*self._submit, str(self._fresh))
        said = self.python(_TIMELINE, *words, BEGUN=str(begun))
        found = {"end": time.time() - begun}
        for line in said.splitlines():
            what, _, seconds = line.partition("\t")
            found.setdefault(what, float(seconds))
        return found

    def python(self, code: str, *words: str, **environment: str) -> str:
        """Run code in a fresh interpreter; what it printed."""
        return self._run(code, words, environment).stdout

    def _first(self) -> _Cost:
        shutil.rmtree(self._fresh, ignore_errors=True)
        return self._cost(_COMMAND, *self._submit, str(self._fresh))

    def _complete(self) -> _Cost:
        asked = {"COMP_WORDS": "bei-jobs submit --mo", "COMP_CWORD": "2"}
        return self._cost(_COMMAND, _BEI_JOBS_COMPLETE="bash_complete", **asked)

    def _cost(self, code: str, *words: str, **environment: str) -> _Cost:
        cpu, begun = _cpu_seconds(), time.perf_counter()
        done = self._run(_MEMORY + code, words, environment)
        seconds = time.perf_counter() - begun
        kilobytes = done.stderr.rpartition("VmHWM:")[2].split()[0]
        return _Cost(seconds, _cpu_seconds() - cpu, int(kilobytes) / 1024)

    def _run(
        self, code: str, words: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True,
            env={**self._environment, **environment}, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{' '.join(words) or code} failed: {done.stderr}")
        return done


def _cpu_seconds() -> float:
    """Of all processes that were waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
