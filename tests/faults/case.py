"""One fault on one small fleet: what a test starts, how it waits, and how it judges the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from commandline import Outcome, typed
from corpora import TINY, write_parquet
from faults import checks
from faults.checks import Rows, Violation, Watch, require
from faults.matrix import BROKEN, HOLDS, OPEN, RESUMED, Line
from faults.points import PausePoint
from faults.processes import Machine
from faults.proxy import Proxy
from fixtures_redis import RedisServer
from fleet import until

from pipeline.errors import StorageError
from pipeline.output.output import find_run
from workers.broker import Broker
from workers.messages import QUEUE

SHARDS = 6
SHARD_ROWS = 200
ROWS = SHARDS * SHARD_ROWS
# Small batches: each shard has many, so that there is a middle of a shard.
PATIENCE_S = 150.0
POLL_S = 0.02
OPTIONS = ("--rows-per-shard", SHARD_ROWS, "--token-budget", 500)


@dataclass
class Job:
    """A submitted job."""

    id: str
    output: str
    corpus: Path
    watch: Watch | None


@dataclass
class Case:
    """A fleet, its jobs, and the line of the table that they fill."""

    root: Path
    server: RedisServer
    line: Line
    undisturbed: Callable[[Path], Rows]
    model: str = TINY
    machines: list[Machine] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)
    struck_at: float = 0.0
    patience: float = PATIENCE_S  # how long a job may take

    @cached_property
    def outside(self) -> Path:
        """What no job may write to: inputs, home and temporary files of the machine."""
        for name in ("input", "home", "tmp"):
            (self.root / "outside" / name).mkdir(parents=True, exist_ok=True)
        return self.root / "outside"

    @cached_property
    def _before(self) -> checks.Snapshot:
        return checks.snapshot(self.outside)

    def corpus(self, name: str = "corpus", *, seed: int = 0) -> Path:
        """An input of the machine, the same content every time."""
        path = self.outside / "input" / f"{name}.parquet"
        if not path.exists():
            write_parquet(path, ROWS, seed=seed, row_group=SHARD_ROWS)
            self.accept_outside()
        return path

    def start(self, url: str = "", **environment: str) -> Machine:
        """One more worker."""
        return self.start_behind((), url, **environment)

    def start_behind(self, words: Sequence[str], url: str = "", **environment: str) -> Machine:
        """One more worker, started behind other words."""
        outside = {"HOME": str(self.outside / "home"), "TMPDIR": str(self.outside / "tmp")}
        machine = Machine(
            url or self.server.url,
            self.root / f"machine-{len(self.machines)}",
            {**outside, **environment},
            words,
        )
        self.machines.append(machine)
        return machine

    def proxy(self, target: int = 0) -> Proxy:
        proxy = Proxy(target or self.server.port)
        self.proxies.append(proxy)
        return proxy

    def pause_at(self, point: str) -> PausePoint:
        return PausePoint.make(self.root, point)

    def owner(self, pid: int) -> Machine:
        """The machine that a process belongs to."""
        state = psutil.Process(pid).environ()["BEI_JOBS_STATE_DIR"]
        return next(machine for machine in self.machines if str(machine.state_dir) == state)

    def words(self, corpus: Path, output: object) -> tuple[object, ...]:
        return ("submit", corpus, "--output", output, "--model", self.model, *OPTIONS)

    def submit(self, corpus: Path | None = None, output: object = None, url: str = "") -> Job:
        """Enqueue a job; its output is watched from here on."""
        corpus = corpus or self.corpus()
        output = str(output or self.root / "outputs" / corpus.stem)
        _ = self._before
        self.enqueue(corpus, output, url)
        return self.watched(corpus, output)

    def watched(self, corpus: Path, output: object) -> Job:
        """A job that was submitted; its output is watched from here on."""
        _ = self._before
        watch = None if "://" in str(output) else Watch(Path(str(output)))
        self.jobs.append(job := Job(find_run(str(output))[1].job, str(output), corpus, watch))
        return job

    def enqueue(self, corpus: Path, output: object, url: str = "") -> str:
        """The same command, again and again; the id of the job."""
        broker = ("--broker", url or self.server.url, "--no-wait", "--json")
        done = typed(*self.words(corpus, output), *broker)
        require("P", done.code == 0, f"submit failed: {done.err}")
        job: str = done.json["job"]
        return job

    def foreground(self, corpus: Path, output: object) -> Outcome:
        return typed(*self.words(corpus, output), "--device", "cpu", "--json")

    def struck(self) -> None:
        """The fault is over: what comes is recovery."""
        self.struck_at = time.monotonic()

    def finish(self, job: Job) -> None:
        """Wait until a job is done without doing anything for it."""
        state = self.wait(job)
        require("P", state == "done", f"the job did not finish unaided: {state}\n{self.logs()}")

    def finish_or_resume(self, job: Job, repair: Callable[[], object] = lambda: None) -> str:
        """Wait until a job ends; where it failed, repair and type the same command. The reason."""
        reason = self.wait(job)
        if reason == "done":
            return ""
        repair()
        self.resume(job)
        return reason

    def resume(self, job: Job) -> None:
        """Type the same command after a loud failure, and wait for the end."""
        job.id = self.enqueue(job.corpus, job.output)
        self.line.marks["P"] = RESUMED
        self.finish(job)

    def end_of_store_fault(self, job: Job, s3: Any) -> str:
        """The job ends while `s3` is in trouble; where it failed, the trouble ends first."""

        def repair() -> None:
            s3.fault = None

        reason = self.finish_or_resume(job, repair)
        repair()
        return reason

    def accept_outside(self) -> None:
        """The test itself wrote an input."""
        self._before = checks.snapshot(self.outside)

    def wait(self, job: Job) -> str:
        """`done`, or why the newest run of a job failed."""

        def end() -> str:
            try:
                store, run = find_run(job.output)
                if store.directory.exists(run.path("manifest.json")):
                    return "done"
                failed = store.failed(run)
            except StorageError:  # the fault is still there
                return ""
            return f"failed: {failed['reason']} ({failed['hint']})" if failed else ""

        deadline = time.monotonic() + self.patience
        while not (state := end()):
            if time.monotonic() > deadline:
                self.line.marks["P"] = BROKEN
                raise Violation("P", f"no end after {self.patience:.0f} s\n{self.logs()}")
            time.sleep(POLL_S)
        if state == "done" and self.struck_at:
            later = [t for t in (job.watch.times if job.watch else []) if t > self.struck_at]
            self.line.seconds = min([*later, time.monotonic()]) - self.struck_at
        return state

    def check(self, *, failures: int = 0, computed: int = 0, temporaries: int = 0) -> None:
        """The five checks on every job of the case.

        Args:
            failures: recorded failures of shards that the fault explains.
            computed: shards that it lets compute more often than twice.
            temporaries: files of commits that were killed.
        """
        self._judge("P", lambda: None)
        # First, as it waits until nobody is at work: a late worker's part of a run that another has
        # replaced is there for the moment before that worker deletes it.
        self._judge("B", lambda: self._bounded(failures, computed, temporaries))
        for job in self.jobs:
            self._judge(
                "X", lambda job=job: checks.exactly_once(job.output, self.undisturbed(job.corpus))
            )  # type: ignore[misc]
            self._judge("V", lambda job=job: self._nothing_partial(job))  # type: ignore[misc]
        self._judge("S", lambda: checks.untouched(self.outside, self._before))

    def check_local(
        self, output: object, corpus: Path, *, temporaries: int = 0, resumed: bool = True
    ) -> None:
        """The five checks on a job of the foreground, which the same command resumed or not."""
        self.line.marks["P"] = RESUMED if resumed else HOLDS
        self._judge("X", lambda: checks.exactly_once(output, self.undisturbed(corpus)))
        self._judge("V", lambda: checks.nothing_partial(output))
        left = checks.temporaries(output)
        self._judge("B", lambda: require("B", left <= temporaries, f"{left} temporary files left"))
        self._judge("S", lambda: checks.untouched(self.outside, self._before))

    def _judge(self, letter: str, check: Callable[[], None]) -> None:
        mark = BROKEN
        try:
            check()
            mark = HOLDS
        finally:
            if self.line.marks[letter] in (OPEN, HOLDS):
                self.line.marks[letter] = mark

    def _nothing_partial(self, job: Job) -> None:
        if job.watch:
            job.watch.close()
            require("V", not job.watch.problems, str(job.watch.problems))
        checks.nothing_partial(job.output)

    def _bounded(self, failures: int, computed: int, temporaries: int) -> None:
        shards = 0
        for job in self.jobs:
            found = checks.failure_records(job.output)
            require(
                "B", found <= failures, f"{found} failures recorded, at most {failures} expected"
            )
            shards += len(list(checks.visible_parts(job.output)))
        runs = sum(machine.log.count(" rows\n") for machine in self.machines)
        require("B", runs <= 2 * shards + computed, f"{runs} computations of {shards} shards")
        self._forgotten(temporaries)

    def _forgotten(self, temporaries: int) -> None:
        """Redis and the living workers remember no job that ended; no write is under way."""
        broker = Broker(self.server.url)
        client = self.server.client()
        alive = [machine for machine in self.machines if machine.process.poll() is None]
        left: dict[str, object] = {}

        def forgotten() -> bool:
            left.clear()
            left["open jobs"] = len(broker.open_jobs())
            files = sum(checks.temporaries(job.output) for job in self.jobs)
            left["temporary files"] = max(0, files - temporaries)
            left["known to workers"] = sum(machine.remembers() for machine in alive)
            if alive:
                left["messages"] = client.llen(QUEUE)
                left["leases"] = len(list(client.scan_iter("bei:job:*:lease:*")))
            return not any(left.values())

        try:
            until(forgotten)
        except AssertionError:
            raise Violation("B", f"left behind: {left}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- machine {i}\n{m.log}" for i, m in enumerate(self.machines))

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()
        for job in self.jobs:
            if job.watch:
                job.watch.close()
        for proxy in self.proxies:
            proxy.close()
