"""Beside a span that runs: renew its lease, pass on its progress, notice that its job ended.

In a thread of its own, so that neither Redis nor the store ever holds the device up.
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

#: Between two looks, at most; a third of the lease where that is less.
_LOOK_SECONDS = 3.0


class LeaseKeeper:
    """Watches over one span while the block runs.

    Args:
        broker: where leases and counters are.
        output: where a cancelled or replaced run can be told.
        run: the run of the span.
        lease: taken; renewed until the block ends, not released.
        lease_seconds: what it lasts.
    """

    def __init__(
        self, broker: Broker, output: Output, run: Run, lease: Lease, lease_seconds: float
    ) -> None:
        self._broker = broker
        self._output = output
        self._run = run
        self._lease = lease
        self._seconds = min(_LOOK_SECONDS, lease_seconds / 3)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vigil", daemon=True)
        self._lock = threading.Lock()
        self._rows = self._tokens = 0  # counted, not yet passed on
        self.job_ended = False  # cancelled, or replaced by a higher run

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._pass_on()

    def count(self, rows: int, tokens: int) -> None:
        """Rows and tokens that just came back from the device; negative ones take back."""
        with self._lock:
            self._rows += rows
            self._tokens += tokens

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self._renew()
            self._pass_on()
            self._look()

    def _renew(self) -> None:
        try:
            with self._broker.errors():
                self._lease.renew()
        except BrokerError as error:
            # The work goes on: its commits need no Redis, and running it twice is harmless.
            logger.warning("lease not renewed: %s", error)

    def _pass_on(self) -> None:
        with self._lock:
            rows, tokens = self._rows, self._tokens
            self._rows = self._tokens = 0
        if not (rows or tokens):
            return
        try:
            self._broker.add_progress(self._run.job, rows, tokens)
        except BrokerError:
            self.count(rows, tokens)  # told next time

    def _look(self) -> None:
        try:
            ended = self._output.cancelled(self._run) or self._output.superseded(self._run)
        except BeiJobsError as error:
            logger.warning("job %s: %s", self._run.job, error)
        else:
            self.job_ended = bool(ended)
