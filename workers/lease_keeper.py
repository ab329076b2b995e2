"""While a span runs, renew its lease, report its progress and notice that its job has ended.

This happens in a separate thread, so that neither Redis nor the store delays the device.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from pipeline.errors import BeiJobsError, BrokerError
from pipeline.output.output import Output
from pipeline.output.run import Run
from workers.broker import Broker
from workers.span_ledger import Lease

logger = logging.getLogger(__name__)

# Interval of the thread; a third of the lease where that is less.
_INTERVAL_SECONDS = 3.0


class LeaseKeeper:
    """Keeps the lease of one span while the context is open.

    Args:
        broker: holds the leases and live counters.
        output: shows whether the run was cancelled or replaced.
        run: the run of the span.
        lease: already taken; renewed until the context closes, but not released.
        lease_seconds: how long the lease lasts.
    """

    def __init__(
        self, broker: Broker, output: Output, run: Run, lease: Lease, lease_seconds: float
    ) -> None:
        self._broker = broker
        self._output = output
        self._run = run
        self._lease = lease
        self._interval = min(_INTERVAL_SECONDS, lease_seconds / 3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
        self._lock = threading.Lock()
        self._rows = self._tokens = 0  # counted, not yet reported
        self.job_ended = False  # cancelled, or replaced by a later run

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._report_progress()

    def count(self, rows: int, tokens: int) -> None:
        """Count rows and tokens that the device just computed; negative values take them back."""
        with self._lock:
            self._rows += rows
            self._tokens += tokens

    def _keep(self) -> None:
        while not self._stop.wait(self._interval):
            self._renew()
            self._report_progress()
            self._check_job()

    def _renew(self) -> None:
        try:
            with self._broker.errors():
                self._lease.renew()
        except BrokerError as error:
            # The span continues: commits need no Redis, and running a span twice is harmless.
            logger.warning("lease not renewed: %s", error)

    def _report_progress(self) -> None:
        with self._lock:
            rows, tokens = self._rows, self._tokens
            self._rows = self._tokens = 0
        if not (rows or tokens):
            return
        try:
            self._broker.add_progress(self._run.job, rows, tokens)
        except BrokerError:
            self.count(rows, tokens)  # reported next time

    def _check_job(self) -> None:
        try:
            ended = self._output.cancelled(self._run) or self._output.superseded(self._run)
        except BeiJobsError as error:
            logger.warning("job %s: %s", self._run.job, error)
        else:
            self.job_ended = bool(ended)
