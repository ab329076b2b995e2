"""`bei-jobs worker`: the parent process. It handles no messages itself.

    worker (this)      reconciles known jobs, sends heartbeats, replaces a dead or hung consumer
    └── consumer       takes messages (`workers.consumer`); never uses a device
        ├── child      one device with its engines
        └── child      …

The parent is a separate process because it must survive the consumer, however that fails, and a
forked child must not inherit the threads and connections that stores need.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from pipeline.errors import BrokerError, UsageError
from pipeline.output.run import now
from workers.broker import Broker, WorkerInfo
from workers.consumer_process import ConsumerProcess, log_jobs
from workers.device_reports import REPORT_SECONDS, Reporter
from workers.logs import LogFormat
from workers.metrics import metrics_served, own_version
from workers.reconcile_loop import ReconcileLoop, known_jobs_of
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_HEARTBEAT_SECONDS = 10.0
# A worker without three heartbeats counts as dead.
_SILENCE_SECONDS = 3 * _HEARTBEAT_SECONDS
# How long a stopping worker waits for the job that it reconciles; stopped midway is harmless.
_FINISH_SECONDS = 5.0


def serve(
    settings: Settings,
    broker_url: str,
    devices: Sequence[str],
    *,
    verbose: bool = False,
    log_format: LogFormat = "text",
    metrics_port: int | None = None,
) -> int:
    """Serve the queue until SIGTERM or Ctrl-C; a second signal does not wait for running batches.

    Once started, the worker survives any outage of its broker.

    Args:
        settings: of this machine.
        broker_url: redis:// or rediss://.
        devices: such as ("cuda:0", "cuda:1") or ("cpu",): one process each.
        verbose: log every shard, and Celery's own messages.
        log_format: of the log on stderr.
        metrics_port: where Prometheus metrics are served; None for nowhere.

    Returns:
        The exit code: 0, or 1 after a second signal.

    Raises:
        UsageError: there is no device, or no metrics can be served there.
        BrokerError: the broker cannot be reached at the start.
    """
    if not devices:
        raise UsageError("a worker needs a device", hint="give one such as cpu or cuda:0")
    log_jobs(log_format, verbose)
    broker = Broker(broker_url, patience_seconds=settings.lease_seconds / 2)
    broker.ping()
    consumer = ConsumerProcess(settings, broker_url, tuple(devices), (log_format, verbose))
    worker = _Worker(settings, broker, broker_url, tuple(devices), consumer)
    with metrics_served(metrics_port, devices, consumer.counters, lambda: not worker.unreachable):
        return worker.run()


class _Worker:
    """The parent's loop: restarts the consumer, sends heartbeats, reconciles known jobs."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        broker_url: str,
        devices: tuple[str, ...],
        consumer: ConsumerProcess,
    ) -> None:
        self._reconcile_seconds = settings.reconcile_seconds
        self._broker = broker
        self._info = WorkerInfo(socket.gethostname(), os.getpid(), own_version(), devices, now())
        known_jobs = known_jobs_of(settings, broker_url)
        # A fleet of any size reconciles a job at most twice as often as a single worker.
        self._reconcile_loop = ReconcileLoop(broker, known_jobs, settings.reconcile_seconds / 2)
        self._consumer = consumer
        self._reporter = Reporter(devices, consumer.counters)
        self._stop = threading.Event()
        self.unreachable = False
        self._exit_code = 0

    def run(self) -> int:
        """Serve until a signal or a fault ends it; returns the exit code."""
        previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
        logger.info("serving %s on %s", self._broker.name, ", ".join(self._info.devices))
        # A thread of its own: a store that never answers must not keep the consumer unwatched.
        reconciler = threading.Thread(target=self._reconcile, name="reconcile", daemon=True)
        self._consumer.start()
        reconciler.start()
        try:
            self._watch()
        finally:
            self._consumer.stop()
            self._consumer.join()
            reconciler.join(_FINISH_SECONDS)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._exit_code

    def _watch(self) -> None:
        """Keep a consumer at work and send heartbeats."""
        next_heartbeat = next_report = time.monotonic()
        while not self._stop.is_set():
            self._consumer.restart_if_dead()
            self._replace_if_hung()
            moment = time.monotonic()
            if moment >= next_heartbeat:
                next_heartbeat = moment + _HEARTBEAT_SECONDS
                self._with_redis(self._heartbeat)
            if moment >= next_report:
                next_report = moment + REPORT_SECONDS
                self._with_redis(self._report)
            self._stop.wait(_LOOK_SECONDS)

    def _reconcile(self) -> None:
        """Remember the jobs that Redis lists as open, and reconcile all that are known."""
        next_reconcile = time.monotonic()
        while not self._stop.is_set():
            moment = time.monotonic()
            self._with_redis(self._reconcile_loop.remember_open_jobs)
            if moment >= next_reconcile:
                # Jittered, so that workers that started together do not reconcile together.
                next_reconcile = moment + self._reconcile_seconds * random.uniform(0.7, 1.3)
                self._with_redis(self._reconcile_loop.reconcile_all)
            wake_up = min(next_reconcile, moment + _LOOK_SECONDS)
            self._stop.wait(max(0.0, wake_up - time.monotonic()))

    def _heartbeat(self) -> None:
        if self._consumer.is_alive():
            self._broker.heartbeat(self._info, _SILENCE_SECONDS)

    def _report(self) -> None:
        reports = self._reporter.reports()  # also without a consumer: its rates are taken here
        if self._consumer.is_alive():
            self._broker.report(self._info, reports, _SILENCE_SECONDS)

    def _replace_if_hung(self) -> None:
        if self._consumer.shows_life():
            return
        if self._with_redis(self._broker.ping):
            self._consumer.kill_if_silent()
        else:
            self._consumer.excuse_silence()  # there is nothing to consume

    def _with_redis(self, action: Callable[[], None]) -> bool:
        """Do something that needs Redis, and return whether Redis answered.

        An outage is logged when it begins and when it ends.
        """
        try:
            action()
        except BrokerError as error:
            if not self.unreachable:
                logger.error("%s (%s)", error, error.hint)
            self.unreachable = True
            return False
        if self.unreachable:
            logger.info("%s is back", self._broker.name)
        self.unreachable = False
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            logger.warning("stopping at once")
            self._exit_code = 1
            self._consumer.kill()
            return
        logger.info("stopping after this batch; a second signal does not wait for it")
        self._stop.set()
        self._consumer.stop()
