"""One span on one device: lease, compute, commit, and say how it ended."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import BeiJobsError, BrokerError, CheckpointError
from pipeline.output.output import Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from pipeline.run import run_shards
from pipeline.spec import ShardResult
from workers.broker import Broker
from workers.engine_cache import EngineCache
from workers.lease_keeper import LeaseKeeper
from workers.settings import Settings
from workers.span_ledger import Lease, SpanLedger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job whose run and plan are in memory."""

    output: Output
    run: Run
    plan: Plan


@dataclass(frozen=True, slots=True)
class Device:
    """One device of this machine, with the encoders that are resident on it.

    `should_stop` says whether the worker is asked to stop; it is looked at between batches.
    """

    name: str  # such as "cpu" or "cuda:1"
    engines: EngineCache
    should_stop: Callable[[], bool]


class SpanAttempt:
    """One attempt at what is missing of a span.

    What goes wrong with a shard is written down in the output, not raised.
    """

    def __init__(
        self, settings: Settings, broker: Broker, device: Device, job: OpenJob, span: Span
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._device = device
        self._job = job
        self._span = span
        self._attempt = uuid.uuid4().hex
        self._left: dict[str, int] = {}  # shard id → index in the plan, not yet answered
        self._committed = 0  # shards
        self._transient = False  # a failure may pass: pause before the span is sent again
        self._started = time.monotonic()

    def run(self) -> bool:
        """Compute the span. False: stopped on request, the rest belongs back into the queue."""
        with self._leased() as lease:
            if lease is None:
                logger.info("job %s: %s is under way elsewhere", self._job.run.job, self._span)
                return True
            self._left = self._missing()
            with self._advisory() as spans:
                spans.began(self._left.values())
            vigil = LeaseKeeper(
                self._broker, self._job.output, self._job.run, lease, self._settings.lease_seconds
            )
            with vigil:
                self._compute(vigil)
            return self._end(vigil)

    @contextmanager
    def _leased(self) -> Iterator[Lease | None]:
        """Hold the span for the block; None where another live worker holds it."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{self._attempt}"
        with self._broker.spans(self._job.run.job) as spans:
            lease = spans.lease(self._span, owner, self._settings.lease_seconds)
            taken = lease.take()
        try:
            yield lease if taken else None
        finally:
            if taken:
                with self._advisory():
                    lease.release()

    def _missing(self) -> dict[str, int]:
        plan, directory = self._job.plan, self._job.output.directory
        last = min(self._span.start + self._span.count, len(plan))
        shards = {i: plan.shard(i) for i in range(self._span.start, last)}
        return {s.id: i for i, s in shards.items() if not directory.exists(s.part)}

    def _compute(self, vigil: LeaseKeeper) -> None:
        """Run the shards that are left, and answer for each that ends."""
        run, counted = self._job.run, _Counted(vigil)
        try:
            engine = self._device.engines.get(run.spec, self._device.name)
            for result in run_shards(
                run,
                list(self._job.plan.shards(self._left.values())),
                engine,
                self._job.output,
                attempt=self._attempt,
                should_stop=lambda: self._should_stop(vigil),
                on_batch=counted.add,
            ):
                counted.keep(result)
                self._answer(result)
        except CheckpointError as error:  # no shard of this job will do better here
            for index in list(self._left.values()):
                self._answer(self._failure(index, error, transient=False))
        except Exception as error:  # a bug, MemoryError or the soft time limit among them
            self._blame(error)
        finally:
            counted.take_back()

    def _should_stop(self, vigil: LeaseKeeper) -> bool:
        if self._device.should_stop() or vigil.job_ended:
            return True
        # A long span hands the rest back well before the time limit takes it for hung. One shard
        # at least is done each time, or it would never end.
        return bool(self._committed) and self._overtime()

    def _overtime(self) -> bool:
        return time.monotonic() - self._started > self._settings.task_seconds / 2

    def _answer(self, result: ShardResult) -> None:
        """Note how a shard ended; a failure is written down for everybody to see."""
        index = self._left.pop(result.shard)
        if result.error:
            logger.error("job %s: %s", self._job.run.job, result.error)
            self._transient |= result.transient
            try:
                self._job.output.record_failure(self._job.run, result, self._attempt[:8])
            except BeiJobsError as error:  # then it is as if the shard had not been tried
                logger.error("job %s: failure not recorded: %s", self._job.run.job, error)
        else:
            logger.debug("job %s: %s, %d rows", self._job.run.job, result.part, result.rows)
            self._committed += 1
        with self._advisory() as spans:
            spans.answered([index])

    def _blame(self, error: Exception) -> None:
        """An error that names no shard: a lone shard's own, else each is tried alone next time."""
        left = list(self._left.values())
        logger.error("job %s: %s: %s", self._job.run.job, self._span, error, exc_info=error)
        if len(left) == 1:
            transient = error.transient if isinstance(error, BeiJobsError) else True
            self._answer(self._failure(left[0], error, transient=transient))

    def _failure(self, index: int, error: Exception, *, transient: bool) -> ShardResult:
        shard = self._job.plan.shard(index)
        named = isinstance(error, BeiJobsError)
        return ShardResult(
            shard.id,
            shard.part,
            shard.rows,
            computed=False,
            error=f"{shard}: {error if named else f'{type(error).__name__}: {error}'}",
            hint=error.hint if isinstance(error, BeiJobsError) else "see the worker's log",
            transient=transient,
        )

    def _end(self, vigil: LeaseKeeper) -> bool:
        stopped = bool(self._left) and self._should_stop(vigil)
        with self._advisory() as spans:
            if stopped:
                spans.stopped(self._left.values())
            if stopped and not vigil.job_ended:
                spans.requeued(self._span)
            elif not self._transient:
                spans.ended(self._span)
        return not stopped or vigil.job_ended

    @contextmanager
    def _advisory(self) -> Iterator[SpanLedger]:
        """Tell Redis what it is good to know; without it the work goes on."""
        try:
            with self._broker.spans(self._job.run.job) as spans:
                yield spans
        except BrokerError as error:
            logger.warning("%s", error)


class _Counted:
    """Rows and tokens told to the bar, those of shards that came to nothing taken back."""

    def __init__(self, vigil: LeaseKeeper) -> None:
        self._vigil = vigil
        self._rows = self._tokens = 0

    def add(self, rows: int, tokens: int) -> None:
        self._vigil.count(rows, tokens)
        self._rows += rows
        self._tokens += tokens

    def keep(self, result: ShardResult) -> None:
        if result.computed:
            self._rows -= result.rows
            self._tokens -= result.tokens

    def take_back(self) -> None:
        self._vigil.count(-self._rows, -self._tokens)
