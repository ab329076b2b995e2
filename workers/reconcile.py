"""Reconcile a job: send the shards that are missing and not under way, finish a complete job.

Messages in Redis are only hints. What a job still needs is always *plan − commits − outstanding −
failed*, and plan and commits are in the store. So any process may reconcile a job at any time, any
number of times: the workers' parent processes every 30-60 s, `status`, `submit --wait`, a repeated
submit.

A job that every live worker has stepped back from (`workers.step_back`) fails, with their reasons.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import JobFailed
from pipeline.output.manifest import finalise
from pipeline.output.output import Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from pipeline.output.state import mark_queued
from pipeline.output.status import failure_reason
from pipeline.shards import ShardResult
from pipeline.spec import NUMERICS_VERSION
from workers.broker import Broker
from workers.messages import FINALIZE_JOB, RUN_SPAN, Message, queue_of
from workers.span_ledger import Outstanding
from workers.step_back import Refusal, all_refuse

logger = logging.getLogger(__name__)

# Spans of a job in the queue or under way: enough to keep a fleet busy between two
# reconciliations, few enough (about 1 KB each) for any Redis.
MAX_OUTSTANDING_SPANS = 1024
# A job is given up once this many shards failed, and more than succeeded: then the job itself is
# at fault, not single shards.
_HOPELESS_SHARDS = 64

# Workers whose reasons are in the reason of a job that all refuse.
_REASONS_SHOWN = 5

_State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The state of a job after reconciling; `pipeline.output.status.job_status` has all counts."""

    state: _State
    shards: int
    done: int = 0
    failed: int = 0
    outstanding: int = 0  # spans in the queue or under way, including those just sent
    sent: int = 0  # spans just sent

    @property
    def final(self) -> bool:
        """Whether the job will not change by itself."""
        return self.state in ("done", "failed", "cancelled")


def reconcile(broker: Broker, output: Output, run: Run, plan: Plan | None = None) -> Reconciled:
    """Send the missing shards of a job; finish it if complete, fail it if hopeless.

    Args:
        broker: where its messages go.
        output: the job's output.
        run: the run; it is cancelled if the output has a later one.
        plan: the run's plan, if it is already loaded.

    Raises:
        BrokerError: Redis cannot be reached; nothing is lost.
        StorageError: the output cannot be read or written.
    """
    if end := ended(output, run):
        if end == "superseded":
            output.cancel(run)
            end = "cancelled"
        broker.close_job(run.job)
        return Reconciled(end, run.shards)
    plan = plan or output.plan(run)
    broker.register(run)
    snapshot = _take_snapshot(broker, output, run, plan)
    if not snapshot.missing and run.numerics != NUMERICS_VERSION:
        state = _request_finish(broker, run)
    elif not snapshot.missing:
        state = _finish(output, run, plan)
    elif snapshot.hopeless:
        state = _give_up(output, run, snapshot)
    elif snapshot.refusals:
        state = _refused_by_all(output, run, snapshot.refusals)
    else:
        return _send_missing(broker, output, run, plan, snapshot)
    if state in ("done", "failed", "cancelled"):
        broker.close_job(run.job)
    return Reconciled(state, len(plan), snapshot.done, len(snapshot.failures))


def ended(output: Output, run: Run) -> Literal["done", "failed", "cancelled", "superseded"] | None:
    """How a run ended; None while it is open. Writes nothing."""
    if output.directory.exists(run.path("manifest.json")):
        return "done"
    if output.failed(run):
        return "failed"
    if output.cancelled(run):
        return "cancelled"
    if n := output.superseded(run):
        logger.info("job %s: run %d of %s supersedes it", run.job, n, output.uri, extra=_of(run))
        return "superseded"
    return None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The missing shards of a job, and what is known about them."""

    shards: int
    missing: Sequence[int]
    outstanding: Outstanding
    failures: dict[int, ShardResult]  # of missing shards that must not be tried again
    refusals: Sequence[Refusal]  # of every live worker; empty if one may still run the job

    @property
    def done(self) -> int:
        return self.shards - len(self.missing)

    @property
    def unsent(self) -> list[int]:
        """Missing shards that neither failed nor are in an outstanding span."""
        outstanding = {
            index
            for span in self.outstanding.live
            for index in range(span.start, span.start + span.count)
        }
        return [i for i in self.missing if i not in outstanding and i not in self.failures]

    @property
    def hopeless(self) -> bool:
        """Whether every missing shard failed, or so many that the job itself is at fault."""
        if len(self.failures) == len(self.missing):
            return True
        return len(self.failures) >= max(_HOPELESS_SHARDS, self.done + 1)


def _take_snapshot(broker: Broker, output: Output, run: Run, plan: Plan) -> _Snapshot:
    # Outstanding spans are read first and commits last, so that a shard that is committed in
    # between is not sent again.
    empty = broker.queue_is_empty(queue_of(run.numerics))
    with broker.ledger(run.job) as ledger:
        outstanding = ledger.outstanding(broker.patience_seconds, queue_is_empty=empty)
    failures_by_id = output.failures(run)
    missing = plan.missing(output.committed())
    failures = {}
    if failures_by_id:
        still_missing = set(missing)
        for index, (shard,) in enumerate(plan.values("shard")):
            if shard in failures_by_id and index in still_missing:
                failures[index] = failures_by_id[shard]
    if refusals := broker.refusals(run.job):
        devices = [(w.host, w.pid, device) for w in broker.workers() for device in w.devices]
        refusals = all_refuse(refusals, devices)
    return _Snapshot(len(plan), missing, outstanding, failures, refusals)


def _request_finish(broker: Broker, run: Run) -> _State:
    """Have a complete run finished by its own version, which alone knows the manifest's space."""
    queue = queue_of(run.numerics)
    if broker.queue_is_empty(queue):
        from workers.celery_app import send  # celery takes a moment to import

        send(broker.app, FINALIZE_JOB, [Message(run.job, run.output, run.n).to_kwargs()], queue)
    return "running"


def _finish(output: Output, run: Run, plan: Plan) -> _State:
    try:
        manifest = finalise(output, run, plan, max_failed=run.spec.max_failed_rows)
    except JobFailed:
        return "failed"
    if manifest is None:  # meanwhile another run was started or a part was deleted
        end = ended(output, run)
        return "cancelled" if end == "superseded" else end or "running"
    logger.info("job %s is done: %d rows in %s", run.job, manifest.rows, output.uri, extra=_of(run))
    return "done"


def _give_up(output: Output, run: Run, snapshot: _Snapshot) -> _State:
    """Mark a hopeless job as failed."""
    failures = list(snapshot.failures.values())
    reason = failure_reason(failures, snapshot.shards)
    output.fail(run, reason, failures[0].hint or "fix the cause, then run `bei-jobs retry`")
    logger.error("job %s failed: %s", run.job, reason, extra=_of(run))
    return "failed"


def _refused_by_all(output: Output, run: Run, refusals: Sequence[Refusal]) -> _State:
    """Mark a job as failed that no live worker can run."""
    lines = [f"{one.host} ({one.device}): {one.reason}" for one in refusals[:_REASONS_SHOWN]]
    if len(refusals) > _REASONS_SHOWN:
        lines.append(f"… and {len(refusals) - _REASONS_SHOWN} more")
    reason = "no worker can run this job:\n  " + "\n  ".join(lines)
    hint = refusals[0].hint or "repair the workers"
    output.fail(run, reason, f"{hint}; then run `bei-jobs retry`")
    logger.error("job %s failed: %s", run.job, reason, extra=_of(run))
    return "failed"


def _send_missing(
    broker: Broker, output: Output, run: Run, plan: Plan, snapshot: _Snapshot
) -> Reconciled:
    live = len(snapshot.outstanding.live)
    with broker.ledger(run.job) as ledger:
        for span in snapshot.outstanding.lost:
            ledger.drop(span)
        room = max(0, MAX_OUTSTANDING_SPANS - live)
        claimed = [span for span in plan.spans(snapshot.unsent)[:room] if ledger.claim(span)]
    if claimed:
        mark_queued(output, run)
    # If Redis goes away between claiming and sending, the spans count as lost in the queue.
    _publish(broker, run, claimed)
    sent, outstanding = len(claimed), live + len(claimed)
    if claimed:
        logger.info(
            "job %s: sent %d spans, %d outstanding",
            run.job,
            sent,
            outstanding,
            extra=_of(run),
        )
    state: _State = "running" if snapshot.done or snapshot.outstanding.leased else "queued"
    failed = len(snapshot.failures)
    return Reconciled(state, len(plan), snapshot.done, failed, outstanding, sent)


def _publish(broker: Broker, run: Run, spans: Sequence[Span]) -> None:
    if not spans:
        return
    from workers.celery_app import send  # celery takes a moment to import

    messages = [Message(run.job, run.output, run.n, span.start, span.count) for span in spans]
    queue = queue_of(run.numerics)
    send(broker.app, RUN_SPAN, [message.to_kwargs() for message in messages], queue)


def _of(run: Run) -> dict[str, str]:
    """What an event in the log is about."""
    return {"job": run.job}
