"""Run one span on one device: lease it, compute and commit its shards, record the outcome."""

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
    """A job whose run and plan are loaded."""

    output: Output
    run: Run
    plan: Plan


@dataclass(frozen=True, slots=True)
class Device:
    """One device of this machine, with the engines that are loaded on it.

    `should_stop` says whether the worker was asked to stop; it is called between batches.
    """

    name: str  # such as "cpu" or "cuda:1"
    engines: EngineCache
    should_stop: Callable[[], bool]


class SpanAttempt:
    """One attempt at the missing shards of a span.

    Failures of shards are recorded in the output, not raised.
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
        self._pending: dict[str, int] = {}  # shard id → index in the plan, without a result
        self._committed = 0  # shards
        self._transient = False  # whether a shard failed in a way that may pass
        self._started = time.monotonic()

    def run(self) -> bool:
        """Compute the span. False: it was stopped, and the message must be requeued."""
        with self._leased() as lease:
            if lease is None:
                logger.info("job %s: %s is leased to another worker", self._job.run.job, self._span)
                return True
            self._pending = self._missing()
            with self._advisory_ledger() as ledger:
                ledger.started(self._pending.values())
            keeper = LeaseKeeper(
                self._broker, self._job.output, self._job.run, lease, self._settings.lease_seconds
            )
            with keeper:
                self._compute(keeper)
            return self._finish(keeper)

    @contextmanager
    def _leased(self) -> Iterator[Lease | None]:
        """Lease the span while the context is open; None if another live worker holds the lease."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{self._attempt}"
        with self._broker.ledger(self._job.run.job) as ledger:
            lease = ledger.lease(self._span, owner, self._settings.lease_seconds)
            taken = lease.take()
        try:
            yield lease if taken else None
        finally:
            if taken:
                with self._advisory_ledger():
                    lease.release()

    def _missing(self) -> dict[str, int]:
        plan, directory = self._job.plan, self._job.output.directory
        end = min(self._span.start + self._span.count, len(plan))
        shards = {i: plan.shard(i) for i in range(self._span.start, end)}
        return {shard.id: i for i, shard in shards.items() if not directory.exists(shard.part)}

    def _compute(self, keeper: LeaseKeeper) -> None:
        """Run the pending shards and record the result of each."""
        run, uncommitted = self._job.run, _UncommittedCount(keeper)
        try:
            engine = self._device.engines.get(run.spec, self._device.name)
            for result in run_shards(
                run,
                list(self._job.plan.shards(self._pending.values())),
                engine,
                self._job.output,
                attempt=self._attempt,
                should_stop=lambda: self._should_stop(keeper),
                on_batch=uncommitted.add,
            ):
                uncommitted.committed(result)
                self._record(result)
        except CheckpointError as error:  # every shard of this job fails on this machine
            for index in list(self._pending.values()):
                self._record(self._failure(index, error, transient=False))
        except Exception as error:  # including bugs, MemoryError and the soft time limit
            self._handle_error(error)
        finally:
            uncommitted.take_back()

    def _should_stop(self, keeper: LeaseKeeper) -> bool:
        if self._device.should_stop() or keeper.job_ended:
            return True
        # A long span is requeued well before it reaches the time limit. At least one shard is
        # committed each time, so that it ends at some point.
        return bool(self._committed) and self._overtime()

    def _overtime(self) -> bool:
        return time.monotonic() - self._started > self._settings.task_seconds / 2

    def _record(self, result: ShardResult) -> None:
        """Record the result of a shard; a failure is written to the output."""
        index = self._pending.pop(result.shard)
        if result.error:
            logger.error("job %s: %s", self._job.run.job, result.error)
            self._transient |= result.transient
            try:
                self._job.output.record_failure(self._job.run, result, self._attempt[:8])
            except BeiJobsError as error:  # the shard then counts as not tried
                logger.error("job %s: failure not recorded: %s", self._job.run.job, error)
        else:
            logger.debug("job %s: %s, %d rows", self._job.run.job, result.part, result.rows)
            self._committed += 1
        with self._advisory_ledger() as ledger:
            ledger.resolved([index])

    def _handle_error(self, error: Exception) -> None:
        """Handle an error that names no shard.

        Where one shard is pending, the error is that shard's. Where several are, none is blamed:
        the reconcile loop sends each in its own span.
        """
        pending = list(self._pending.values())
        logger.error("job %s: %s: %s", self._job.run.job, self._span, error, exc_info=error)
        if len(pending) == 1:
            transient = error.transient if isinstance(error, BeiJobsError) else True
            self._record(self._failure(pending[0], error, transient=transient))

    def _failure(self, index: int, error: Exception, *, transient: bool) -> ShardResult:
        shard = self._job.plan.shard(index)
        message = str(error) if isinstance(error, BeiJobsError) else _with_type(error)
        return ShardResult(
            shard.id,
            shard.part,
            shard.rows,
            computed=False,
            error=f"{shard}: {message}",
            hint=error.hint if isinstance(error, BeiJobsError) else "see the worker's log",
            transient=transient,
        )

    def _finish(self, keeper: LeaseKeeper) -> bool:
        stopped = bool(self._pending) and self._should_stop(keeper)
        with self._advisory_ledger() as ledger:
            if stopped:
                ledger.stopped(self._pending.values())
            if stopped and not keeper.job_ended:
                ledger.requeued(self._span)
            elif not self._transient:
                ledger.ended(self._span)
        return not stopped or keeper.job_ended

    @contextmanager
    def _advisory_ledger(self) -> Iterator[SpanLedger]:
        """The ledger, for updates that the work does not depend on: errors are only logged."""
        try:
            with self._broker.ledger(self._job.run.job) as ledger:
                yield ledger
        except BrokerError as error:
            logger.warning("%s", error)


def _with_type(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _UncommittedCount:
    """Rows and tokens reported as progress whose shards are not committed yet."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._rows = self._tokens = 0

    def add(self, rows: int, tokens: int) -> None:
        """Report rows and tokens that were just computed."""
        self._keeper.count(rows, tokens)
        self._rows += rows
        self._tokens += tokens

    def committed(self, result: ShardResult) -> None:
        """Keep the reported rows and tokens of a shard."""
        if result.computed:
            self._rows -= result.rows
            self._tokens -= result.tokens

    def take_back(self) -> None:
        """Take back what was reported of shards that were not committed."""
        self._keeper.count(-self._rows, -self._tokens)
