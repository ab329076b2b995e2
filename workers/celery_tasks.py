"""The two Celery tasks: messages in, spans run. Their names are fixed, since queued messages
outlive renames.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from pipeline.errors import BeiJobsError, OutputConflict
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import schema_hash, shard_id
from workers.broker import Broker
from workers.celery_app import send
from workers.known_jobs import JobRef, KnownJobs
from workers.messages import (
    FINALIZE_JOB,
    RUN_SHARD,
    Message,
    NewerMessage,
    queue_of,
    read_message,
)
from workers.reconcile import MAX_OUTSTANDING_SPANS, ended, reconcile
from workers.settings import Settings
from workers.span_attempt import Device, OpenJob, SpanAttempt

logger = logging.getLogger(__name__)

#: Plans kept in memory: jobs that take turns.
_JOBS_KEPT = 8
#: A job that this process cannot take is not asked about again for so long.
_REFUSED_SECONDS = 30.0


class MessageHandler:
    """Does what messages ask for, on one device. One lives in each process of the pool."""

    def __init__(
        self, settings: Settings, broker: Broker, registry: KnownJobs, device: Device
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._registry = registry
        self._device = device
        self._jobs: OrderedDict[tuple[str, int], OpenJob] = OrderedDict()
        self._refused: dict[str, float] = {}  # job → when, by the monotonic clock

    def run_shard(self, message: Message) -> bool:
        """Run a span. False: this worker stops, put the message back."""
        job = self._open(message)
        if job is None:
            return True
        try:
            if not SpanAttempt(self._settings, self._broker, self._device, job, message.span).run():
                return False
            self._hint(message)
        except BeiJobsError as error:  # the span is sent again by whoever puts the job right
            logger.error("job %s: %s", message.job, error)
        return True

    def finalize_job(self, message: Message) -> None:
        """Put a job right whose spans have ended, or run low."""
        job = self._open(message)
        if job is not None:
            try:
                reconcile(self._broker, job.output, job.run, job.plan)
            except BeiJobsError as error:
                logger.warning("job %s: %s", message.job, error)

    def forward(self, kwargs: dict[str, Any], task: str, version: int) -> None:
        """Hand a message that is too new for us to the queue where newer workers look."""
        queue = queue_of(version)
        logger.error(
            "a message of version %d is too new for this worker: moved to %s; upgrade this worker",
            version,
            queue,
        )
        send(self._broker.app, task, [kwargs], queue=queue)

    def _open(self, message: Message) -> OpenJob | None:
        """The job of a message; None where it ended, or where this worker cannot take part."""
        now = time.monotonic()
        if now - self._refused.get(message.job, -_REFUSED_SECONDS) < _REFUSED_SECONDS:
            return None
        try:
            job = self._job(message)
            return None if ended(job.output, job.run) else job
        except BeiJobsError as error:
            # No failure of the job: other workers may be newer, or see a store that we do not.
            self._refused[message.job] = now
            logger.error("job %s is not for this worker: %s (%s)", message.job, error, error.hint)
            return None

    def _job(self, message: Message) -> OpenJob:
        key = (message.output, message.n)
        output = Output(message.output)
        # Read each time: an output that was deleted and submitted anew has the same job id.
        run = output.run(message.n)
        if key not in self._jobs or self._jobs[key].run != run:
            plan = output.plan(run)
            check_version(run, plan)
            self._registry.add(JobRef.of(run))
            self._jobs[key] = OpenJob(output, run, plan)
            if len(self._jobs) > _JOBS_KEPT:
                self._jobs.popitem(last=False)
        return self._jobs[key]

    def _hint(self, message: Message) -> None:
        """Have the job looked at when its last span ended, or when half of the window is free."""
        with self._broker.spans(message.job) as spans:
            left = spans.count()
        if left in (0, MAX_OUTSTANDING_SPANS // 2):
            hint = Message(message.job, message.output, message.n)
            send(self._broker.app, FINALIZE_JOB, [hint.to_kwargs()])


def check_version(run: Run, plan: Plan) -> None:
    """Prove that this version computes what the plan's parts are named after.

    Raises:
        OutputConflict: the run was planned by a version whose numbers differ.
    """
    for shard in plan.shards(range(min(1, len(plan)))):
        mine = shard_id(run.spec.space, schema_hash(run.kept), shard.file, shard.cut)
        if mine != shard.id:
            raise OutputConflict(
                f"run {run.n} was planned by a version of bei-jobs whose results differ from ours",
                hint="run the same version of bei-jobs on every machine of the fleet",
            )


def register_tasks(app: Celery, handler: Callable[[], MessageHandler]) -> None:
    """Give `app` its tasks; `servant` is called in the process that runs them."""

    def run_shard(**kwargs: Any) -> None:
        message = _read(handler(), RUN_SHARD, kwargs)
        if message is not None and not handler().run_shard(message):
            raise Reject("the worker stops", requeue=True)

    def finalize_job(**kwargs: Any) -> None:
        message = _read(handler(), FINALIZE_JOB, kwargs)
        if message is not None:
            handler().finalize_job(message)

    # Not shared: by default Celery would give them to every other app of the process as well.
    app.task(name=RUN_SHARD, shared=False)(run_shard)
    app.task(name=FINALIZE_JOB, shared=False)(finalize_job)


def _read(handler: MessageHandler, task: str, kwargs: dict[str, Any]) -> Message | None:
    try:
        return read_message(kwargs)
    except NewerMessage as error:
        handler.forward(kwargs, task, error.version)
    except ValueError as error:
        logger.error("dropped: %s", error)
    return None
