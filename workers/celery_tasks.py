"""The two Celery tasks and the message handler behind them.

The tasks' names are fixed: messages with the old name may still be queued after a rename.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from pipeline.errors import BeiJobsError, BrokerError, OutputConflict
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.shards import shard_id
from pipeline.spec import NUMERICS_VERSION, schema_hash
from pipeline.store.uris import redact
from workers.broker import Broker
from workers.celery_app import send
from workers.known_jobs import JobRef, KnownJobs
from workers.logs import set_context
from workers.messages import (
    FINALIZE_JOB,
    RUN_SPAN,
    Message,
    NewerMessage,
    queue_of,
    read_message,
)
from workers.reconcile import MAX_OUTSTANDING_SPANS, ended, reconcile
from workers.settings import Settings
from workers.shard_runner import Device
from workers.span_attempt import OpenJob, SpanAttempt
from workers.step_back import Refusal, StepBack

logger = logging.getLogger(__name__)

# Plans kept in memory, for jobs whose messages alternate.
_JOBS_KEPT = 8
# How long a message is held that this device cannot handle.
_HOLD_SECONDS = 2.0
_TICK_SECONDS = 0.1


class MessageHandler:
    """Handles messages on one device. Each process of the pool has one.

    Args:
        settings: of this machine.
        broker: of the fleet.
        known_jobs: of this machine.
        device: computes.
        step_back: from which jobs the device has stepped back.
        should_stop: whether the worker was asked to stop.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        known_jobs: KnownJobs,
        device: Device,
        step_back: StepBack,
        should_stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._known_jobs = known_jobs
        self._device = device
        self._step_back = step_back
        self._should_stop = should_stop
        self._jobs: OrderedDict[tuple[str, int], OpenJob] = OrderedDict()
        self._refusals: dict[str, Refusal] = {}

    def run_shard(self, message: Message) -> bool:
        """Run a span. False: this worker is stopping, and the message must be requeued."""
        set_context(job=message.job)
        if self._step_back.remaining(message.job):
            return self._hand_on(message)
        try:
            job = self._open_job(message)
            if job is None:
                return True
            attempt = SpanAttempt(
                self._settings, self._broker, self._device, job, message.span, self._should_stop
            )
            if not attempt.run():
                return False
            self._accept(message)
            self._request_reconcile(message)
        except BrokerError as error:  # reconciling the job sends the span again
            logger.error("job %s: %s", message.job, error)
        except Exception as error:  # also of a library that is missing or a bug
            self._refuse(message, error)
            return self._hand_on(message)
        return True

    def finalize_job(self, message: Message) -> None:
        """Reconcile a job whose spans have ended or are running out."""
        if self._step_back.remaining(message.job):
            return
        try:
            if (job := self._open_job(message)) is not None:
                reconcile(self._broker, job.output, job.run, job.plan)
        except BeiJobsError as error:
            logger.warning("job %s: %s", message.job, error)

    def forward(self, kwargs: dict[str, Any], task: str, version: int) -> None:
        """Move a message that is too new for this worker to the queue of newer workers."""
        queue = queue_of(NUMERICS_VERSION, version)
        logger.error(
            "a message of version %d is too new for this worker: moved to %s; upgrade this worker",
            version,
            queue,
        )
        send(self._broker.app, task, [kwargs], queue=queue)

    def _open_job(self, message: Message) -> OpenJob | None:
        """The job of a message; None where it ended.

        Raises:
            BeiJobsError: this worker cannot run it.
        """
        job = self._load_job(message)
        return None if ended(job.output, job.run) else job

    def _load_job(self, message: Message) -> OpenJob:
        key = (message.output, message.n)
        output = Output(message.output)
        # Read each time: after an output is deleted, a new submit gets the same job id.
        run = output.run(message.n)
        if run.job != message.job:
            raise OutputConflict(
                f"the message names {redact(message.output)}, which is {redact(output.uri)}",
                hint="submit the job again: bei-jobs does not send such a message",
            )
        if key not in self._jobs or self._jobs[key].run != run:
            plan = output.plan(run)
            check_version(run, plan)
            self._known_jobs.add(JobRef.of(run))
            self._jobs[key] = OpenJob(output, run, plan)
            if len(self._jobs) > _JOBS_KEPT:
                self._jobs.popitem(last=False)
        return self._jobs[key]

    def _refuse(self, message: Message, error: Exception) -> None:
        refusal = self._step_back.refuse(message.job, error)
        self._refusals[message.job] = refusal
        self._device.counters.step_back(self._step_back.remaining(message.job))
        with suppress(BrokerError):
            self._broker.refuse(message.job, refusal)

    def _accept(self, message: Message) -> None:
        """The device ran a span of the job: if it had stepped back, it no longer does."""
        if self._step_back.accept(message.job) and message.job in self._refusals:
            with suppress(BrokerError):
                self._broker.take_back_refusal(message.job, self._refusals.pop(message.job))

    def _hand_on(self, message: Message) -> bool:
        """Put a message that this device cannot handle behind all others, for another worker.

        It is held for a moment, or workers that all refuse it would pass it round without a pause.
        """
        held_until = time.monotonic() + min(_HOLD_SECONDS, self._step_back.remaining(message.job))
        while time.monotonic() < held_until:
            if self._should_stop():
                return False
            time.sleep(_TICK_SECONDS)
        try:
            known = self._broker.find(message.job)
            if known and (known.output, known.n) == (message.output, message.n):
                with self._broker.ledger(message.job) as ledger:
                    ledger.requeued(message.span)
                queue = queue_of(NUMERICS_VERSION)
                send(self._broker.app, RUN_SPAN, [message.to_kwargs()], queue)
        except BrokerError as error:  # reconciling the job sends the span again
            logger.error("job %s: %s", message.job, error)
        return True

    def _request_reconcile(self, message: Message) -> None:
        """Request a reconciliation after the last span, and when half of the spans have ended."""
        with self._broker.ledger(message.job) as ledger:
            outstanding = ledger.count()
        if outstanding in (0, MAX_OUTSTANDING_SPANS // 2):
            request = Message(message.job, message.output, message.n)
            queue = queue_of(NUMERICS_VERSION)
            send(self._broker.app, FINALIZE_JOB, [request.to_kwargs()], queue)


def check_version(run: Run, plan: Plan) -> None:
    """Check that this version computes the values that the names of the plan's parts promise.

    Raises:
        OutputConflict: the run was planned by a version whose results differ.
    """
    for shard in plan.shards(range(min(1, len(plan)))):
        expected_id = shard_id(run.spec.space, schema_hash(run.kept), shard.file, shard.cut)
        if expected_id != shard.id:
            raise OutputConflict(
                f"run {run.n} was planned by a version of bei-jobs whose results differ",
                hint="run the same version of bei-jobs on every machine of the fleet",
            )


def register_tasks(app: Celery, handler: Callable[[], MessageHandler]) -> None:
    """Add the tasks to `app`; `handler` is called in the process that runs them."""

    def run_shard(**kwargs: Any) -> None:
        message = _read(handler(), RUN_SPAN, kwargs)
        if message is not None and not handler().run_shard(message):
            logger.info("job %s: %s goes back to the queue", message.job, message.span)
            raise Reject("the worker is stopping", requeue=True)

    def finalize_job(**kwargs: Any) -> None:
        message = _read(handler(), FINALIZE_JOB, kwargs)
        if message is not None:
            handler().finalize_job(message)

    logging.getLogger("celery.app.trace").addFilter(_is_no_return)
    # Not shared: by default Celery adds a task to every app of the process.
    app.task(name=RUN_SPAN, shared=False)(run_shard)
    app.task(name=FINALIZE_JOB, shared=False)(finalize_job)


def _is_no_return(record: logging.LogRecord) -> bool:
    """Celery warns with a stack trace of a message that a stopping worker returns, as it should."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))


def _read(handler: MessageHandler, task: str, kwargs: dict[str, Any]) -> Message | None:
    try:
        return read_message(kwargs)
    except NewerMessage as error:
        handler.forward(kwargs, task, error.version)
    except ValueError as error:
        logger.error("message dropped: %s", error)
    return None
