"""Put a job right: send what is missing and not under way, finish what is complete.

Redis is a queue of hints. What a job still needs is always *plan − commits − outstanding −
failed*, and the first two of these lie in the store; so anybody may do this at any time, any
number of times: the workers' parent processes every 30-60 s, `status`, `submit --wait`, a
repeated submit.

A shard that kills its process (out of memory, a crash in native code, the time limit) leaves no
word behind. Its executions that never ended are counted: after the first it is sent alone, so
that its neighbours do not suffer, and after MAX_ATTEMPTS more it counts as failed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import JobFailed
from pipeline.output.manifest import finalise
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from pipeline.output.status import failure_reason
from pipeline.spec import ShardResult
from workers.broker import Broker
from workers.messages import RUN_SHARD, Message
from workers.span_ledger import Outstanding

logger = logging.getLogger(__name__)

#: Spans of a job in the queue or under way: enough to keep a fleet busy between two looks, little
#: enough (about 1 KB each) for any Redis.
MAX_OUTSTANDING_SPANS = 1024
#: A job of which this many shards failed, and more than succeeded, is given up: it is the job.
_HOPELESS_SHARDS = 64

_Name = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How a job stood after this look; `pipeline.output.status.job_status` has all its counts."""

    state: _Name
    shards: int
    done: int = 0
    failed: int = 0
    outstanding: int = 0  # spans in the queue or under way, those just sent among them
    sent: int = 0  # spans sent by this look

    @property
    def final(self) -> bool:
        """Whether the job will not change by itself."""
        return self.state in ("done", "failed", "cancelled")


def reconcile(broker: Broker, output: Output, run: Run, plan: Plan | None = None) -> Reconciled:
    """Look at a job once, and do what is missing for it to go on or to end.

    Args:
        broker: where its messages go.
        output: the job's output.
        run: the run; one that is not the output's highest is cancelled.
        plan: the run's plan where it is at hand.

    Raises:
        BrokerError: Redis is out of reach; nothing is lost.
        StorageError: the output cannot be read or written.
    """
    if end := ended(output, run):
        if end == "superseded":
            output.cancel(run)
            end = "cancelled"
        broker.settle(run.job)
        return Reconciled(end, run.shards)
    plan = plan or output.plan(run)
    broker.register(run)
    look = _look(broker, output, run, plan)
    if not look.missing:
        state = _finish(output, run, plan)
    elif look.hopeless:
        state = _give_up(output, run, look)
    else:
        return _go_on(broker, run, plan, look)
    if state in ("done", "failed", "cancelled"):
        broker.settle(run.job)
    return Reconciled(state, len(plan), look.done, len(look.failures))


def ended(output: Output, run: Run) -> Literal["done", "failed", "cancelled", "superseded"] | None:
    """How a run ended, or None while it has not. Writes nothing."""
    if output.directory.exists(run.path("manifest.json")):
        return "done"
    if output.failed(run):
        return "failed"
    if output.cancelled(run):
        return "cancelled"
    if n := output.superseded(run):
        logger.info("job %s: run %d of %s replaces it", run.job, n, output.uri)
        return "superseded"
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """What is missing of a job, and what is known about it."""

    shards: int
    missing: Sequence[int]
    outstanding: Outstanding
    failures: dict[int, ShardResult]  # of missing shards that are not to be tried again
    crashes: dict[int, int]

    @property
    def done(self) -> int:
        return self.shards - len(self.missing)

    @property
    def open(self) -> list[int]:
        """Missing shards that nobody works on."""
        covered = {
            index
            for span in self.outstanding.live
            for index in range(span.start, span.start + span.count)
        }
        return [i for i in self.missing if i not in covered and i not in self.failures]

    @property
    def hopeless(self) -> bool:
        if len(self.failures) == len(self.missing):
            return True
        return len(self.failures) >= max(_HOPELESS_SHARDS, self.done + 1)


def _look(broker: Broker, output: Output, run: Run, plan: Plan) -> _Look:
    # What is under way is read first and the commits last: what ends in between is then looked at
    # again next time, not sent twice.
    empty = broker.queue_is_empty()
    with broker.spans(run.job) as spans:
        outstanding = spans.outstanding(broker.patience_seconds, queue_is_empty=empty)
        crashes = spans.crashes()
    ids = output.failures(run)
    missing = plan.missing(output.committed())
    failures = {}
    if ids:
        names = plan.table["shard"].to_pylist()
        failures = {i: ids[names[i]] for i in missing if names[i] in ids}
    look = _Look(len(plan), missing, outstanding, failures, crashes)
    for index in look.open:
        if crashes.get(index, 0) > MAX_ATTEMPTS:
            failures[index] = _record_crash(broker, output, run, plan, index, crashes[index])
    return look


def _record_crash(
    broker: Broker, output: Output, run: Run, plan: Plan, index: int, times: int
) -> ShardResult:
    """Write down that a shard kills its workers: they cannot do it themselves."""
    shard = plan.shard(index)
    result = ShardResult(
        shard.id,
        shard.part,
        shard.rows,
        computed=False,
        error=f"{shard}: the process that ran it died {times} times without an answer (killed, out "
        "of memory, a crash in native code, or the time limit)",
        hint="look at the workers' logs and memory; a job submitted with a lower "
        "--token-budget needs less of it; `bei-jobs retry` tries again as it is",
    )
    logger.error("job %s: %s", run.job, result.error)
    output.record_failure(run, result, "crashed")
    with broker.spans(run.job) as spans:
        spans.answered([index])
    return result


def _finish(output: Output, run: Run, plan: Plan) -> _Name:
    try:
        manifest = finalise(output, run, plan, max_failed=run.spec.max_failed_rows)
    except JobFailed as error:
        output.fail(run, error.message, error.hint)
        return "failed"
    if manifest is None:  # a higher run came, or a part went, since we looked
        end = ended(output, run)
        return "cancelled" if end == "superseded" else end or "running"
    logger.info("job %s is done: %d rows in %s", run.job, manifest.rows, output.uri)
    return "done"


def _give_up(output: Output, run: Run, look: _Look) -> _Name:
    """Mark a job as failed whose missing shards all failed for good."""
    failures = list(look.failures.values())
    reason = failure_reason(failures, look.shards)
    output.fail(run, reason, failures[0].hint or "fix the cause, then `bei-jobs retry`")
    logger.error("job %s failed: %s", run.job, reason)
    return "failed"


def _go_on(broker: Broker, run: Run, plan: Plan, look: _Look) -> Reconciled:
    with broker.spans(run.job) as spans:
        for span in look.outstanding.lost:
            spans.drop(span)
        room = max(0, MAX_OUTSTANDING_SPANS - len(look.outstanding.live))
        mine = [span for span in _cut(plan, look)[:room] if spans.claim(span)]
    # Claimed but not sent, because Redis went away in between, is the same as lost in the queue.
    _publish(broker, run, mine)
    outstanding = len(look.outstanding.live) + len(mine)
    if mine:
        logger.info("job %s: sent %d spans, %d outstanding", run.job, len(mine), outstanding)
    state: _Name = "running" if look.done or look.crashes else "queued"
    return Reconciled(state, len(plan), look.done, len(look.failures), outstanding, len(mine))


def _cut(plan: Plan, look: _Look) -> list[Span]:
    """Spans over the open shards, in input order; suspects of a crash alone."""
    calm = [i for i in look.open if not look.crashes.get(i)]
    suspects = [Span(i, 1) for i in look.open if look.crashes.get(i)]
    return sorted([*plan.spans(calm), *suspects], key=lambda span: span.start)


def _publish(broker: Broker, run: Run, spans: Sequence[Span]) -> None:
    if not spans:
        return
    from workers.celery_app import send  # celery: only where something is sent

    messages = [Message(run.job, run.output, run.n, span.start, span.count) for span in spans]
    send(broker.app, RUN_SHARD, [m.to_kwargs() for m in messages])
