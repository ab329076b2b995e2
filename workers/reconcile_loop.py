"""Reconcile all known jobs of a broker, again and again.

Known are the jobs that Redis lists as open and those in this machine's own files, so that a Redis
that lost everything gets its jobs back.

    <state_dir>/queues/<16 hex of the broker's name>/jobs/<job>.json    as in `workers.known_jobs`

A file is removed when its job has ended. Workers on one machine may share the directory.
"""

from __future__ import annotations

import hashlib
import logging

from pipeline.errors import BeiJobsError
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.store.uris import redact
from workers.broker import Broker
from workers.known_jobs import JobRef, KnownJobs
from workers.reconcile import reconcile
from workers.settings import Settings

logger = logging.getLogger(__name__)


def known_jobs_of(settings: Settings, broker_url: str) -> KnownJobs:
    """The open jobs of one broker that this machine remembers; each broker has its own folder."""
    # Without the password: a new one changes nothing, and the name is no help in guessing it.
    name = hashlib.sha256(redact(broker_url).encode()).hexdigest()[:16]
    return KnownJobs(settings.state_dir / "queues" / name)


class ReconcileLoop:
    """Reconciles every known job; the caller decides how often.

    Args:
        broker: of the fleet.
        known_jobs: what this machine remembers, see `known_jobs_of`.
        turn_seconds: a job that any worker reconciled within this time is skipped.
    """

    def __init__(self, broker: Broker, known_jobs: KnownJobs, turn_seconds: float) -> None:
        self._broker = broker
        self._known_jobs = known_jobs
        self._turn_seconds = turn_seconds
        self._loaded: dict[str, tuple[Output, Run, Plan]] = {}
        self._last_errors: dict[str, str] = {}  # job → error that was logged

    def remember_open_jobs(self) -> None:
        """Write the open jobs to this machine's files, in case Redis loses them.

        Raises:
            BrokerError: Redis cannot be reached.
        """
        for ref in self._broker.open_jobs():
            if self._known_jobs.find(ref.job) is None:
                self._known_jobs.add(ref)

    def reconcile_all(self) -> None:
        """Reconcile all known jobs once. A repeated error of a job is logged only the first time.

        Raises:
            BrokerError: Redis cannot be reached.
        """
        self.remember_open_jobs()
        for ref in self._known_jobs.all():
            if self._broker.take_turn(ref.job, self._turn_seconds):
                self._reconcile(ref)

    def _reconcile(self, ref: JobRef) -> None:
        try:
            output, run, plan = self._load(ref)
            reconciled = reconcile(self._broker, output, run, plan)
        except BeiJobsError as error:
            self._log_once(ref, f"{error} ({error.hint})")
            return
        except Exception as error:  # whatever others wrote there, it must not keep other jobs back
            self._log_once(ref, f"{type(error).__name__}: {error}")
            return
        self._last_errors.pop(ref.job, None)
        if reconciled.final:
            logger.info("job %s: %s", ref.job, reconciled.state, extra={"job": ref.job})
            self._known_jobs.forget(ref.job)
            self._loaded.pop(ref.job, None)

    def _log_once(self, ref: JobRef, error: str) -> None:
        if self._last_errors.get(ref.job) != error:
            logger.error("job %s cannot be reconciled: %s", ref.job, error, extra={"job": ref.job})
        self._last_errors[ref.job] = error

    def _load(self, ref: JobRef) -> tuple[Output, Run, Plan]:
        output = Output(ref.output)
        # Read each time: after an output is deleted, a new submit gets the same job id.
        run = output.run(ref.n)
        if ref.job not in self._loaded or self._loaded[ref.job][1] != run:
            self._loaded[ref.job] = (output, run, output.plan(run))
        return self._loaded[ref.job]
