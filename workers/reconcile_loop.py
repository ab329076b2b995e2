"""Keep the jobs that this machine knows going, with nobody watching.

Known is what Redis lists as open and what this machine's own files remember: a Redis that lost
everything gets its jobs back from here.

    <state_dir>/queues/<16 hex of the broker's URL>/jobs/<job>.json    as in `workers.known_jobs`

A file goes when its job has ended. Workers on one machine may share the directory.
"""

from __future__ import annotations

import hashlib
import logging

from pipeline.errors import BeiJobsError
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from workers.broker import Broker
from workers.known_jobs import JobRef, KnownJobs
from workers.reconcile import Reconciled, reconcile
from workers.settings import Settings

logger = logging.getLogger(__name__)


def queue_jobs(settings: Settings, broker_url: str) -> KnownJobs:
    """The open jobs of one broker, as this machine remembers them: a folder for each broker."""
    name = hashlib.sha256(broker_url.encode()).hexdigest()[:16]
    return KnownJobs(settings.state_dir / "queues" / name)


class ReconcileLoop:
    """Puts every known job right, time and again.

    Args:
        broker: the fleet's.
        registry: what this machine remembers, see `queue_registry`.
        turn_seconds: a job that any worker looked at within this time is left alone.
    """

    def __init__(self, broker: Broker, registry: KnownJobs, turn_seconds: float) -> None:
        self._broker = broker
        self._registry = registry
        self._turn_seconds = turn_seconds
        self._opened: dict[str, tuple[Output, Run, Plan]] = {}
        self._complained: dict[str, str] = {}

    def learn(self) -> None:
        """Write down the jobs that are open: whatever Redis forgets from now on is known here.

        Raises:
            BrokerError: Redis is out of reach.
        """
        for ref in self._broker.open_jobs():
            if self._registry.find(ref.job) is None:
                self._registry.add(ref)

    def look_after_all(self) -> None:
        """One round over all known jobs. What fails is logged, once while it stays the same.

        Raises:
            BrokerError: Redis is out of reach.
        """
        self.learn()
        for ref in self._registry.all():
            if self._broker.take_turn(ref.job, self._turn_seconds):
                self._look_after(ref)

    def _look_after(self, ref: JobRef) -> None:
        try:
            seen = self._reconcile(ref)
        except BeiJobsError as error:
            if self._complained.get(ref.job) != str(error):
                logger.error("job %s cannot be put right here: %s (%s)", ref.job, error, error.hint)
            self._complained[ref.job] = str(error)
            return
        self._complained.pop(ref.job, None)
        if seen.final:
            logger.info("job %s: %s", ref.job, seen.state)
            self._registry.forget(ref.job)
            self._opened.pop(ref.job, None)

    def _reconcile(self, ref: JobRef) -> Reconciled:
        if ref.job not in self._opened:
            output = Output(ref.output)
            run = output.run(ref.n)
            self._opened[ref.job] = (output, run, output.plan(run))
        output, run, plan = self._opened[ref.job]
        return reconcile(self._broker, output, run, plan)
