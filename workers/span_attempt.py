"""Run one span on one device: lease it, compute and commit its shards, record the outcome."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from pipeline.errors import (
    AccessDenied,
    BeiJobsError,
    BrokerError,
    InputChanged,
    InputMissing,
    NotFound,
    StorageError,
    StoreFull,
    UsageError,
)
from pipeline.output.output import Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from pipeline.shards import ShardResult
from pipeline.store.uris import is_local
from workers.broker import Broker
from workers.lease_keeper import LeaseKeeper
from workers.settings import Settings
from workers.shard_runner import Calls, Device, ShardRunner
from workers.span_ledger import Lease, SpanLedger

logger = logging.getLogger(__name__)

# Errors of a shard that say nothing about it: the store, the disk or the network of this worker.
_OF_THE_WORKER = {
    e.__name__ for e in (StorageError, NotFound, AccessDenied, StoreFull, InputMissing, UsageError)
}


class CannotRun(BeiJobsError):
    """This worker cannot run the job, for a reason that another one need not share."""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job whose run and plan are loaded."""

    output: Output
    run: Run
    plan: Plan


class SpanAttempt:
    """One attempt at the missing shards of a span.

    Failures of shards are recorded in the output, not raised.

    Args:
        settings: of this machine.
        broker: holds the lease.
        device: computes.
        job: of the span.
        span: which shards.
        should_stop: whether the worker was asked to stop; called between batches.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        device: Device,
        job: OpenJob,
        span: Span,
        should_stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._device = device
        self._job = job
        self._span = span
        self._stop_asked = should_stop
        self._attempt = uuid.uuid4().hex
        self._pending: dict[str, int] = {}  # shard id → index in the plan, without a result
        self._transient = False  # whether a shard failed in a way that may pass
        self._started = time.monotonic()

    def run(self) -> bool:
        """Compute the span. False: it was stopped, and the message must be requeued.

        Raises:
            BeiJobsError: this worker cannot run the job.
        """
        with self._leased() as lease:
            if lease is None:
                logger.info("job %s: %s is leased to another worker", self._job.run.job, self._span)
                return True
            self._pending = self._missing()
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
            if (taken := lease.take()) and (waited := ledger.waited(self._span)) is not None:
                self._device.counters.waited(waited)
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
        uncommitted = _UncommittedCount(keeper)
        calls = Calls(lambda: self._should_stop(keeper), uncommitted.add)
        runner = ShardRunner(self._device, self._job.output, self._job.run, self._job.plan, calls)
        try:
            with closing(runner.compute(list(self._pending.values()))) as results:
                for result in results:
                    uncommitted.committed(result)
                    self._record(result)
        finally:
            uncommitted.take_back()

    def _should_stop(self, keeper: LeaseKeeper) -> bool:
        # A long span is requeued well before it reaches the time limit; what it computed is kept.
        return self._stop_asked() or keeper.job_ended or self._overtime()

    def _overtime(self) -> bool:
        return time.monotonic() - self._started > self._settings.task_seconds / 2

    def _record(self, result: ShardResult) -> None:
        """Record the result of a shard; a failure is written to the output.

        Raises:
            CannotRun: the error need not be the shard's.
        """
        shard = {"shard": result.shard}
        if not result.error:
            del self._pending[result.shard]
            logger.debug(
                "job %s: %s, %d rows", self._job.run.job, result.part, result.rows, extra=shard
            )
            return
        if self._of_this_worker(result):
            raise CannotRun(result.error, hint=result.hint)
        del self._pending[result.shard]
        logger.error("job %s: %s", self._job.run.job, result.error, extra=shard)
        if result.kind == InputChanged.__name__:
            result = replace(result, transient=True)  # until a second and third look
        self._transient |= result.transient
        try:
            self._job.output.record_failure(self._job.run, result, self._attempt[:8])
        except BeiJobsError as error:  # the shard then counts as not tried
            logger.error("job %s: failure not recorded: %s", self._job.run.job, error)

    def _of_this_worker(self, result: ShardResult) -> bool:
        """Whether this or another worker might see something else."""
        if result.kind == InputChanged.__name__:
            # A path may be another file on another machine; a URI is the same everywhere.
            uri = self._job.plan.shard(self._pending[result.shard]).file.uri
            return is_local(uri) and len(self._broker.workers()) > 1
        return result.kind in _OF_THE_WORKER

    def _finish(self, keeper: LeaseKeeper) -> bool:
        stopped = bool(self._pending) and not keeper.job_ended
        with self._advisory_ledger() as ledger:
            if stopped:
                ledger.requeued(self._span)
            elif not self._transient:
                ledger.ended(self._span)
        return not stopped

    @contextmanager
    def _advisory_ledger(self) -> Iterator[SpanLedger]:
        """The ledger, for updates that the work does not depend on: errors are only logged."""
        try:
            with self._broker.ledger(self._job.run.job) as ledger:
                yield ledger
        except BrokerError as error:
            logger.warning("%s", error)


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
