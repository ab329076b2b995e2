"""The processes of `scripts/bench host`: a job whose device takes no time, and its CPU by stage.

Everything is the job's own code, from the parent that plans and watches to the device's process;
only what a GPU would do is left out. A batch goes the way of CUDA graphs: it is checked, filled up
to a shape, copied into the graph's inputs, and its outputs are rows of one random array.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import pipeline.blocks
import pipeline.commit
import pipeline.encode
from pipeline.encoder import cuda_graphs
from pipeline.encoder.card import ModelCard
from pipeline.encoder.cuda_graphs import CudaGraphs
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.input.formats.parquet import ParquetReader
from pipeline.known_rows import KnownRows
from pipeline.output import part_file
from pipeline.output.manifest import finalise
from pipeline.output.output import Output
from pipeline.output.part_format import FORMATS
from pipeline.part_rows import RowBuilder
from pipeline.planning.prepare import prepare
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.store.directory import Directory
from pipeline.tasks.embed import Embed
from pipeline.tokenize import tokens, words
from workers import device_main, device_process, device_start, engine_cache
from workers.device_process import DeviceProcess
from workers.local import LocalRun, compute_missing
from workers.settings import load_settings

# As on a GPU with free memory, for a small model.
_TOKEN_BUDGET = 16_384
_REPORT = "BENCH_HOST_REPORT"
hashed = SimpleNamespace(sha256=hashlib.sha256)

#: What is measured: where it is called, what, and the stage that its time belongs to. What it calls
#: of these is left out of its time.
_CALLS: tuple[tuple[Any, str, str], ...] = (
    (ParquetReader, "batches", "decode Parquet"),
    (pipeline.blocks, "read_slices", "slices of shards"),
    (KnownRows, "resolve", "row keys, duplicates"),
    (Embed, "tokenize", "tokenize, in Python"),
    (words, "_words", "split into words"),
    (words.Speller, "_spell", "ids of words"),
    (tokens, "pack", "sort and pack"),
    (tokens, "gather", "gather batches"),
    (CudaGraphs, "run", "fill a graph's shape"),
    (pipeline.encode._Pending, "put", "put outputs in order"),
    (RowBuilder, "build", "build columns"),
    (pipeline.commit, "encode_part", "encode parts"),
    (type(FORMATS["arrow"]), "write", "write Arrow IPC"),
    (hashed, "sha256", "SHA-256 of parts"),
    (Directory, "create", "create files"),
)
TOKENIZERS, PARENT = "tokenize, in tokenizers", "parent process: events"
PROCESSES = "tokenize, in processes"  # of BEI_JOBS_TOKENIZERS_DIR
#: Thread → what it is called at the start, and its stages; the last is what is in no other.
THREADS: dict[str, tuple[str, tuple[str, ...]]] = {
    "reads": (
        "prefetch",
        ("decode Parquet", "slices of shards", "row keys, duplicates", "reads: the rest"),
    ),
    "tokenizes": (
        "map",
        ("tokenize, in Python", "split into words", "ids of words", "tokenizes: the rest"),
    ),
    "launches": (
        "MainThread",
        ("sort and pack", "gather batches", "fill a graph's shape", "put outputs in order",
         "launches: the rest"),
    ),
    "commits": (
        "commit",
        ("build columns", "encode parts", "write Arrow IPC", "SHA-256 of parts", "create files",
         "commits: the rest"),
    ),
}  # fmt: skip
#: Stages that compute outside of Python's lock, but for moments: numpy's loops over vectors, and
#: all that Arrow, OpenSSL, tokenizers and the system do.
UNLOCKED = {
    PARENT, TOKENIZERS, PROCESSES, "decode Parquet", "put outputs in order", "build columns",
    "split into words", "write Arrow IPC", "SHA-256 of parts", "create files",
}  # fmt: skip


class Clock:
    """CPU seconds of this process by stage; a stage inside another is left out of the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inside = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A context that is the stage, for this thread."""
        outer: list[str] = self._inside.__dict__.setdefault("stages", [])
        self._charge(outer)
        outer.append(name)
        try:
            yield
        finally:
            self._charge(outer)
            outer.pop()

    def _charge(self, stages: list[str]) -> None:
        now = time.thread_time()
        if stages:
            with self._lock:
                self.seconds[stages[-1]] += now - self._inside.since
        self._inside.since = now

    def start(self) -> None:
        """Forget what was before; this thread is the only one."""
        self._charge(self._inside.stages)
        self.seconds.clear()

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """From now on the time of a function, or of a generator, belongs to a stage."""
        function = getattr(owner, name)

        def measured(*given: Any, **named: Any) -> Any:
            with self.stage(stage):
                made = function(*given, **named)
            return self._each(made, stage) if isinstance(made, Iterator) else made

        setattr(owner, name, measured)

    def _each(self, items: Iterator[Any], stage: str) -> Iterator[Any]:
        while True:
            with self.stage(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def watch_threads(self) -> None:
        """From now on each thread that is started is a stage."""
        run = threading.Thread.run

        def measured(thread: threading.Thread) -> None:
            with self.stage(_stage_of(thread.name)):
                run(thread)

        threading.Thread.run = measured  # type: ignore[method-assign]


def _stage_of(thread: str) -> str:
    found = (s[-1] for name, s in THREADS.values() if thread.startswith(name))
    return next(found, "other threads")


class _Outputs:
    """The outputs of a graph, which a device copies without the host."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def __getitem__(self, some: slice) -> _Outputs:
        return _Outputs(self._rows[some])

    def clone(self) -> torch.Tensor:
        return self._rows


class _InstantEngine(Engine):
    """An engine whose device has always just finished."""

    def __init__(self, card: ModelCard, dimensions: tuple[int, ...]) -> None:
        super().__init__(card, HeadOptions(dimensions), precision="float32")
        self.device = "cuda"  # so that as many threads tokenize as for a GPU
        self.token_budget = _TOKEN_BUDGET
        rows = np.random.default_rng(0).standard_normal((_TOKEN_BUDGET, self.output_size))
        outputs = torch.from_numpy(rows.astype(np.float32))
        self.forward = lambda packed: outputs  # type: ignore[assignment]
        self.head = lambda hidden, packed: hidden[: len(packed.offsets) - 1]  # type: ignore[assignment]
        torch.cuda.Stream = lambda device: None  # type: ignore[assignment,misc]
        torch.cuda.graph_pool_handle = lambda: None
        replay = SimpleNamespace(replay=lambda: None)
        cuda_graphs.capture = lambda work, *_: (replay, _Outputs(work()))
        limit = self.config.max_length
        self.graphs = CudaGraphs(self.outputs, self._torch_device, per_token=False, limit=limit)


class _Engines:
    """In place of the device's cache of engines."""

    def __init__(self, cache_dir: Path | None) -> None:
        self._engine: Engine | None = None

    def get(self, spec: JobSpec, device: str, card: ModelCard) -> Engine:
        self._engine = self._engine or _InstantEngine(card, spec.all_dimensions)
        return self._engine


def serve(link: Connection, *given: Any) -> None:
    """In place of the device process's main function."""
    torch.set_num_threads(1)  # a GPU's process computes nothing on the CPU
    clock = Clock()
    for owner, name, stage in _CALLS:
        clock.watch(owner, name, stage)
    part_file.hashlib = hashed
    clock.watch_threads()
    engine_cache.EngineCache = _Engines  # type: ignore[assignment,misc]
    device_main.execute = _reporting(device_main.execute, clock)
    device_start.serve(link, *given)


def _reporting(execute: Callable[..., None], clock: Clock) -> Callable[..., None]:
    """`execute` that leaves the CPU seconds of the order from its first block on in a file."""

    def measured(order: Any, device: str, engines: Any, send: Any, *given: Any) -> None:
        started = children = 0.0

        def start_clock(event: device_main.Event) -> None:
            nonlocal started, children
            if event[0] == "loaded":
                clock.start()
                started, children = time.process_time(), _seconds_of_children()
            send(event)

        with clock.stage(_stage_of("MainThread")):
            execute(order, device, engines, start_clock, *given)
        clock.seconds[TOKENIZERS] = time.process_time() - started - sum(clock.seconds.values())
        clock.seconds[PROCESSES] = _seconds_of_children() - children
        Path(os.environ[_REPORT]).write_text(json.dumps(clock.seconds))

    return measured


def _seconds_of_children() -> float:
    """CPU seconds of the processes that this one has started and that run, by proc(5)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(corpus: str, model: str, folder: str, options: str) -> None:
    """Run a job and print its seconds, and its CPU seconds by stage, as JSON.

    Args:
        corpus: the input.
        model: the checkpoint.
        folder: for the output, which must not exist yet.
        options: of the request, as JSON, and `cores`: what this process and its own may use.
    """
    given = json.loads(options)
    for name in ("dimensions", "output_dtype"):
        given[name] = (given[name],)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.pop("cores")])
    report = Path(folder) / "report.json"
    os.environ[_REPORT] = str(report)
    device_process.serve = serve
    request = Request(
        inputs=(corpus,), model=model, output=f"{folder}/output", precision="float32", **given
    )
    prepared = prepare(request, Path(folder) / "cache")
    tokenizing = load_settings().tokenizing
    device = DeviceProcess("cpu", Path(folder) / "cache", 600.0, tokenizing)
    times: list[tuple[float, float]] = []

    def now(_: object = None) -> None:
        times.append((time.perf_counter(), time.process_time()))

    local = LocalRun((device,), lambda: False, lambda rows, tokens: None, now, card=prepared.card)
    output: Output = prepared.output
    results = list(compute_missing(output, prepared.run, prepared.plan, local))
    now()
    device.close()
    if any(result.error for result in results):
        raise SystemExit(f"the job failed: {results}")
    finalise(output, prepared.run, prepared.plan, max_failed="0")
    (start, cpu), (end, cpu_end) = times
    stages = json.loads(report.read_text()) | {PARENT: cpu_end - cpu}
    tokens = sum(result.tokens for result in results)
    print(json.dumps({"seconds": end - start, "tokens": tokens, "stages": stages}))


if __name__ == "__main__":
    measure(*sys.argv[1:])
