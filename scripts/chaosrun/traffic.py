"""The jobs of the soak: always a few under way, each watched, judged when it is done."""

from __future__ import annotations

import os
import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaosrun.world import World
from commandline import command
from corpora import ROOT, TINY, texts, write_parquet
from faults import checks
from faults.checks import Rows, Violation, Watch

from pipeline.errors import BeiJobsError
from pipeline.output.output import find_run

SHARDS, SHARD_ROWS = 60, 100
_OPTIONS = ("--rows-per-shard", SHARD_ROWS, "--token-budget", 1000)
_CORPORA = 3
_UNDER_WAY = 3
_TICK_S = 0.2
_MAX_RESUMES = 3
# Every so many jobs one has a row that kills its process, or raises.
_POISON_EVERY = 5
_POISONS = ("kill", "raise")


@dataclass
class Corpus:
    path: Path
    poisoned: int | None = None  # its row
    rows: Rows | None = None  # as one process computes them in peace


@dataclass
class SoakJob:
    corpus: Corpus
    output: Path
    watch: Watch
    resumes: int = 0


@dataclass
class Totals:
    """What the soak prints."""

    done: int = 0
    resumed: int = 0
    shards: int = 0
    attempts: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    longest_stall: float = 0.0
    violations: list[str] = field(default_factory=list)


class Traffic:
    """Submits jobs through a machine that no fault hits, as a user does."""

    def __init__(self, world: World, rng: random.Random, *, poison: bool) -> None:
        self.totals = Totals()
        self._world, self._rng, self._poison = world, rng, poison
        self._open: list[SoakJob] = []
        self._started = 0
        self._corpora: list[Corpus] = []
        self._last = 0.0  # when the last part came, or when no work was left

    def prepare(self) -> None:
        """Make the corpora, and compute each in peace."""
        for seed in range(_CORPORA):
            self._corpora.append(self._corpus(f"corpus-{seed}", seed, None, ""))
        for seed, kind in enumerate(_POISONS if self._poison else ()):
            row = self._rng.randrange(SHARDS * SHARD_ROWS)
            self._corpora.append(self._corpus(f"poison-{kind}", 100 + seed, row, kind))

    def _corpus(self, name: str, seed: int, poisoned: int | None, kind: str) -> Corpus:
        lines = texts(SHARDS * SHARD_ROWS, seed)
        peaceful = write_parquet(
            self._world.root / f"{name}.peace.parquet", len(lines), row_group=SHARD_ROWS, seed=seed
        )
        output = self._world.root / "peace" / name
        self._command(peaceful, output, "--device", "cpu", check=True)
        if poisoned is not None:
            lines[poisoned] += f" poison:{kind}"
        path = write_parquet(
            self._world.root / f"{name}.parquet",
            len(lines),
            row_group=SHARD_ROWS,
            seed=seed,
            text=lines,
        )
        return Corpus(path, poisoned, Rows.read(output))

    def _command(
        self, corpus: Path, output: Path, *words: object, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        line = command("submit", corpus, "--output", output, "--model", TINY, *_OPTIONS, *words)
        state = {"BEI_JOBS_STATE_DIR": str(self._world.root / "user"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*line, "--quiet", "--json"],
            cwd=ROOT,
            env={**os.environ, **state},
            capture_output=True,
            text=True,
            check=check,
        )

    def run(self, seconds: float, stall_limit: float) -> None:
        """Keep jobs under way for `seconds`, then wait for the last ones; stop at a stall."""
        self._last = time.monotonic()
        end = self._last + seconds
        while time.monotonic() < end or self._open:
            if time.monotonic() < end and len(self._open) < _UNDER_WAY:
                self._submit_next()
            for job in list(self._open):
                self._look(job)
            if self._stalled() > stall_limit:
                break
            time.sleep(_TICK_S)
        for job in self._open:
            self._give_up(job)

    def _submit_next(self) -> None:
        healthy, poisoned = self._corpora[:_CORPORA], self._corpora[_CORPORA:]
        self._started += 1
        if poisoned and self._started % _POISON_EVERY == 0:
            corpus = poisoned[self._started // _POISON_EVERY % len(poisoned)]
        else:
            corpus = healthy[self._started % len(healthy)]
        output = self._world.root / "outputs" / f"job-{self._started}"
        output.mkdir(parents=True)
        job = SoakJob(corpus, output, Watch(output))
        if self._submit(job):
            self._open.append(job)
        else:
            job.watch.close()

    def _submit(self, job: SoakJob) -> bool:
        """Type the command until it is accepted: Redis may be away, and then it says so."""
        for _ in range(30):
            done = self._command(job.corpus.path, job.output, *self._broker(), check=False)
            if done.returncode == 0:
                return True
            if "Traceback" in done.stderr:
                self.totals.violations.append(f"P: submit: {done.stderr}")
                return False
            time.sleep(_TICK_S)
        self.totals.violations.append(f"P: no submit was accepted: {done.stderr}")
        return False

    def _broker(self) -> tuple[str, ...]:
        return "--broker", self._world.server.url, "--no-wait"

    def _look(self, job: SoakJob) -> None:
        store, run = find_run(str(job.output))
        if store.directory.exists(run.path("manifest.json")):
            self._open.remove(job)
            self._judge(job)
        elif failed := store.failed(run):
            job.resumes += 1
            self.totals.resumed += 1
            print(f"{job.output.name} failed: {failed['reason']}", flush=True)
            if job.resumes > _MAX_RESUMES or not self._submit(job):
                self.totals.violations.append(f"P: {job.output.name}: {failed['reason']}")
                self._open.remove(job)
                job.watch.close()

    def _judge(self, job: SoakJob) -> None:
        job.watch.close()
        expected = job.corpus.rows
        assert expected is not None
        self.totals.done += 1
        self._last = max(self._last, *job.watch.times)
        try:
            rows = Rows.read(job.output)
            self.totals.rows += len(rows.ids)
            self.totals.lost += len(set(expected.ids) - set(rows.ids))
            self.totals.doubled += len(rows.ids) - len(set(rows.ids))
            self.totals.shards += len(job.watch.times)
            self.totals.attempts += checks.attempts(job.output)
            for problem in job.watch.problems:
                raise Violation("V", problem)
            checks.nothing_partial(job.output)
            checks.exactly_once(job.output, with_error(expected, job.corpus.poisoned))
        except (BeiJobsError, Violation) as error:
            self.totals.violations.append(f"{job.output.name}: {error}")

    def _give_up(self, job: SoakJob) -> None:
        job.watch.close()
        missing = SHARDS - len(job.watch.times)
        self.totals.lost += missing * SHARD_ROWS
        self.totals.violations.append(
            f"P: {job.output.name} stands still with {missing} of {SHARDS} shards missing"
        )

    def _stalled(self) -> float:
        """Seconds without a new part while work is left."""
        moment = time.monotonic()
        if not self._open:
            self._last = moment
        self._last = max([self._last, *(max(job.watch.times, default=0.0) for job in self._open)])
        self.totals.longest_stall = max(self.totals.longest_stall, moment - self._last)
        return moment - self._last


def with_error(rows: Rows, poisoned: int | None) -> Rows:
    """The rows as they are expected where one is quarantined."""
    if poisoned is None:
        return rows
    errors = [*rows.errors]
    errors[poisoned] = "quarantined"
    return Rows(rows.ids, errors, rows.vectors)
