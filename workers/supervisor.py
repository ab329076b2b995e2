"""`bei-jobs worker`: the parent process. It serves no message itself.

    worker (this)      keeps known jobs right, says that it lives, restarts the consumer
    └── consumer       takes messages (`workers.consumer`); never touches a device
        ├── child      one device, its encoders resident
        └── child      …

The parent is a process apart because it must go on when the consumer cannot: bytes in the queue
that are no message end a Celery worker, and a forked child must not inherit the threads and
connections that stores need.
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
from workers.reconcile_loop import ReconcileLoop, queue_jobs
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(message)s"

_BEAT_SECONDS = 10.0
#: A worker that gave no sign for three beats is taken for dead.
_SILENCE_SECONDS = 3 * _BEAT_SECONDS
#: A consumer that ends by itself is restarted after 1 s, 2 s, 4 s …
_RESTART_MAX_SECONDS = 60.0
#: … and after 1 s again once it lived this long.
_HEALTHY_SECONDS = 60.0


def serve(
    settings: Settings, broker_url: str, devices: Sequence[str], *, verbose: bool = False
) -> int:
    """Serve the queue until SIGTERM or Ctrl-C; a second one does not wait for the batches.

    Once started, it outlives any outage of its broker.

    Args:
        settings: of this machine.
        broker_url: redis:// or rediss://.
        devices: such as ("cuda:0", "cuda:1") or ("cpu",): one process each.
        verbose: log every shard, and what Celery has to say.

    Returns:
        The exit code: 0, or 1 where it was told not to wait.

    Raises:
        UsageError: no device.
        BrokerError: the broker is out of reach now, at the start.
    """
    if not devices:
        raise UsageError("a worker needs a device", hint="such as cpu or cuda:0")
    start_logging(verbose)
    broker = Broker(broker_url, patience_seconds=settings.lease_seconds / 2)
    broker.ping()
    return _Worker(settings, broker, broker_url, tuple(devices), verbose).run()


class _Worker:
    """The parent's loop: the consumer is there, the beat is heard, known jobs are right."""

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
        registry = queue_jobs(settings, broker_url)
        # A fleet of any size looks at a job about twice in the time that one worker would once.
        self._upkeep = ReconcileLoop(broker, registry, settings.reconcile_seconds / 2)
        self._consumer = _Consumer(settings, broker_url, devices, verbose)
        self._stop = threading.Event()
        self._out_of_reach = False
        self._exit_code = 0

    def run(self) -> int:
        before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
        logger.info("serving %s on %s", self._broker.name, ", ".join(self._info.devices))
        self._consumer.start()
        try:
            self._loop()
        finally:
            self._consumer.stop()
            self._consumer.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._exit_code

    def _loop(self) -> None:
        beat = look = time.monotonic()
        while not self._stop.is_set():
            if self._consumer.revive():
                self._reach(self._purge)
            moment = time.monotonic()
            if moment >= beat:
                beat = moment + _BEAT_SECONDS
                self._reach(self._beat)
            self._reach(self._upkeep.learn)
            if moment >= look:
                # Jittered, so that a fleet started at once does not look at once.
                look = moment + self._reconcile_seconds * random.uniform(0.7, 1.3)
                self._reach(self._upkeep.look_after_all)
            self._stop.wait(max(0.0, min(beat, look, moment + 1.0) - time.monotonic()))

    def _beat(self) -> None:
        if self._consumer.is_alive():
            self._broker.beat(self._info, _SILENCE_SECONDS)

    def _purge(self) -> None:
        if count := self._broker.purge_rubbish():
            logger.error(
                "%d messages that no client of ours sent were dropped from the queue", count
            )

    def _reach(self, action: Callable[[], None]) -> None:
        """Do what needs Redis; an outage is logged when it begins and when it ends."""
        try:
            action()
        except BrokerError as error:
            if not self._out_of_reach:
                logger.error("%s (%s)", error, error.hint)
            self._out_of_reach = True
        else:
            if self._out_of_reach:
                logger.info("%s is back", self._broker.name)
            self._out_of_reach = False

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
    """The process that takes messages, restarted when it ends unasked."""

    def __init__(
        self, settings: Settings, broker_url: str, devices: tuple[str, ...], verbose: bool
    ) -> None:
        self._args = (settings, broker_url, devices, verbose)
        self._process: SpawnProcess | None = None
        self._orders: Connection | None = None
        self._started = 0.0
        self._pause = 0.0  # before the last restart
        self._revive_at: float | None = None

    def start(self) -> None:
        # Spawned, not forked: it must inherit no thread, connection or lock of this process.
        context = multiprocessing.get_context("spawn")
        theirs, self._orders = context.Pipe(duplex=False)
        self._process = context.Process(target=_consume, args=(*self._args, theirs))
        self._process.start()
        theirs.close()
        self._started = time.monotonic()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def revive(self) -> bool:
        """Start a new one where it ended, after a pause that grows while it keeps ending.

        Returns:
            Whether it just ended.
        """
        if self._process is None or self.is_alive():
            return False
        moment = time.monotonic()
        if self._revive_at is None:
            if moment - self._started > _HEALTHY_SECONDS:
                self._pause = 0.0
            self._pause = min(max(1.0, 2 * self._pause), _RESTART_MAX_SECONDS)
            logger.error(
                "the consumer ended with exit code %s; a new one in %.0f s",
                self._process.exitcode,
                self._pause,
            )
            self._revive_at = moment + self._pause
            return True
        if moment >= self._revive_at:
            self._revive_at = None
            self.start()
        return False

    def stop(self) -> None:
        """Have it stop between two batches. May be called in a signal handler, and again."""
        if self._orders is not None:
            self._orders.close()

    def join(self) -> None:
        if self._process is not None:
            self._process.join()

    def kill(self) -> None:
        """End it and its children at once: its session is a process group of its own."""
        if self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def start_logging(verbose: bool) -> None:
    """Log to stderr: what happens to jobs; with `verbose` every shard, and Celery's own lines."""
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
    orders: Connection,
) -> None:
    """The body of the consumer's process, which alone imports Celery and torch."""
    start_logging(verbose)
    from workers.consumer import consume

    consume(settings, broker_url, devices, orders)


def _version() -> str:
    try:
        return version("bei-jobs")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "source"
