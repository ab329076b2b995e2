"""`bei-jobs worker`: the parent process. It handles no messages itself.

    worker (this)      reconciles known jobs, sends heartbeats, restarts the consumer
    └── consumer       takes messages (`workers.consumer`); never uses a device
        ├── child      one device with its engines
        └── child      …

The parent is a separate process because it must survive the consumer: invalid messages end a
Celery worker, and a forked child must not inherit the threads and connections that stores need.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from pipeline.errors import BrokerError, UsageError
from pipeline.output.run import now
from workers.broker import Broker, WorkerInfo
from workers.reconcile_loop import ReconcileLoop, known_jobs_of
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(message)s"

_HEARTBEAT_SECONDS = 10.0
# A worker without three heartbeats counts as dead.
_SILENCE_SECONDS = 3 * _HEARTBEAT_SECONDS
# A consumer that ends by itself is restarted after 1 s, 2 s, 4 s … and at most this.
_MAX_RESTART_SECONDS = 60.0
# After a consumer lived this long, its restarts begin at 1 s again.
_HEALTHY_SECONDS = 60.0


def serve(
    settings: Settings, broker_url: str, devices: Sequence[str], *, verbose: bool = False
) -> int:
    """Serve the queue until SIGTERM or Ctrl-C; a second signal does not wait for running batches.

    Once started, the worker survives any outage of its broker.

    Args:
        settings: of this machine.
        broker_url: redis:// or rediss://.
        devices: such as ("cuda:0", "cuda:1") or ("cpu",): one process each.
        verbose: log every shard, and Celery's own messages.

    Returns:
        The exit code: 0, or 1 after a second signal.

    Raises:
        UsageError: there is no device.
        BrokerError: the broker cannot be reached at the start.
    """
    if not devices:
        raise UsageError("a worker needs a device", hint="give one such as cpu or cuda:0")
    start_logging(verbose)
    broker = Broker(broker_url, patience_seconds=settings.lease_seconds / 2)
    broker.ping()
    return _Worker(settings, broker, broker_url, tuple(devices), verbose).run()


class _Worker:
    """The parent's loop: restarts the consumer, sends heartbeats, reconciles known jobs."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        broker_url: str,
        devices: tuple[str, ...],
        verbose: bool,
    ) -> None:
        self._reconcile_seconds = settings.reconcile_seconds
        self._broker = broker
        self._info = WorkerInfo(socket.gethostname(), os.getpid(), _version(), devices, now())
        known_jobs = known_jobs_of(settings, broker_url)
        # A fleet of any size reconciles a job at most twice as often as a single worker.
        self._reconcile_loop = ReconcileLoop(broker, known_jobs, settings.reconcile_seconds / 2)
        self._consumer = _Consumer(settings, broker_url, devices, verbose)
        self._stop = threading.Event()
        self._unreachable = False
        self._exit_code = 0

    def run(self) -> int:
        """Serve until a signal or a fault ends it; returns the exit code."""
        previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
        logger.info("serving %s on %s", self._broker.name, ", ".join(self._info.devices))
        self._consumer.start()
        try:
            self._loop()
        finally:
            self._consumer.stop()
            self._consumer.join()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._exit_code

    def _loop(self) -> None:
        next_heartbeat = next_reconcile = time.monotonic()
        while not self._stop.is_set():
            if self._consumer.restart_if_dead():
                self._with_redis(self._purge_queue)
            moment = time.monotonic()
            if moment >= next_heartbeat:
                next_heartbeat = moment + _HEARTBEAT_SECONDS
                self._with_redis(self._heartbeat)
            self._with_redis(self._reconcile_loop.remember_open_jobs)
            if moment >= next_reconcile:
                # Jittered, so that workers that started together do not reconcile together.
                next_reconcile = moment + self._reconcile_seconds * random.uniform(0.7, 1.3)
                self._with_redis(self._reconcile_loop.reconcile_all)
            wake_up = min(next_heartbeat, next_reconcile, moment + 1.0)
            self._stop.wait(max(0.0, wake_up - time.monotonic()))

    def _heartbeat(self) -> None:
        if self._consumer.is_alive():
            self._broker.heartbeat(self._info, _SILENCE_SECONDS)

    def _purge_queue(self) -> None:
        if count := self._broker.purge_invalid_messages():
            logger.error("dropped %d invalid messages from the queue", count)

    def _with_redis(self, action: Callable[[], None]) -> None:
        """Do something that needs Redis; an outage is logged when it begins and when it ends."""
        try:
            action()
        except BrokerError as error:
            if not self._unreachable:
                logger.error("%s (%s)", error, error.hint)
            self._unreachable = True
        else:
            if self._unreachable:
                logger.info("%s is back", self._broker.name)
            self._unreachable = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            logger.warning("stopping at once")
            self._exit_code = 1
            self._consumer.kill()
            return
        logger.warning("stopping after this batch; a second signal does not wait for it")
        self._stop.set()
        self._consumer.stop()


class _Consumer:
    """The process that takes messages; it is restarted when it ends by itself."""

    def __init__(
        self, settings: Settings, broker_url: str, devices: tuple[str, ...], verbose: bool
    ) -> None:
        self._args = (settings, broker_url, devices, verbose)
        self._process: SpawnProcess | None = None
        self._stop_pipe: Connection | None = None
        self._started = 0.0
        self._pause = 0.0  # before the last restart
        self._restart_at: float | None = None

    def start(self) -> None:
        # Spawned, not forked: it must not inherit threads, connections or locks of this process.
        context = multiprocessing.get_context("spawn")
        consumer_end, self._stop_pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_consume, args=(*self._args, consumer_end))
        self._process.start()
        consumer_end.close()
        self._started = time.monotonic()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def restart_if_dead(self) -> bool:
        """Start a new process if the last one ended, after a pause that grows each time.

        Returns:
            Whether the process just ended.
        """
        if self._process is None or self.is_alive():
            return False
        moment = time.monotonic()
        if self._restart_at is None:
            if moment - self._started > _HEALTHY_SECONDS:
                self._pause = 0.0
            self._pause = min(max(1.0, 2 * self._pause), _MAX_RESTART_SECONDS)
            logger.error(
                "the consumer ended with exit code %s; restarting it in %.0f s",
                self._process.exitcode,
                self._pause,
            )
            self._restart_at = moment + self._pause
            return True
        if moment >= self._restart_at:
            self._restart_at = None
            self.start()
        return False

    def stop(self) -> None:
        """Stop it between two batches. May be called in a signal handler, and repeatedly."""
        if self._stop_pipe is not None:
            self._stop_pipe.close()

    def join(self) -> None:
        if self._process is not None:
            self._process.join()

    def kill(self) -> None:
        """Kill it and its children at once: they are a process group of their own."""
        if self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def start_logging(verbose: bool) -> None:
    """Log to stderr what happens to jobs; with `verbose` also every shard and Celery's messages."""
    logging.basicConfig(format=_LOG_FORMAT)
    for name, level in (
        ("pipeline", logging.DEBUG if verbose else logging.INFO),
        ("workers", logging.DEBUG if verbose else logging.INFO),
        ("celery", logging.INFO if verbose else logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)


def _consume(
    settings: Settings,
    broker_url: str,
    devices: tuple[str, ...],
    verbose: bool,
    stop_pipe: Connection,
) -> None:
    """The main function of the consumer's process, the only one that imports Celery and torch."""
    start_logging(verbose)
    from workers.consumer import consume

    consume(settings, broker_url, devices, stop_pipe)


def _version() -> str:
    try:
        return version("bei-jobs")
    except PackageNotFoundError:  # a source tree that is not installed
        return "source"
