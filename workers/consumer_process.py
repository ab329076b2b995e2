"""The consumer's process as the parent holds it: started, watched, killed, started again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from pipeline.store.sections import Stores, configure, configured
from workers.device_counters import Counters, new_counters
from workers.logs import LogFormat, start_logging
from workers.pulse import Pulse, PulseWatch, new_pulse
from workers.settings import Settings

logger = logging.getLogger(__name__)


# A consumer that ends by itself is restarted after 1 s, 2 s, 4 s … and at most this.
_MAX_RESTART_SECONDS = 60.0
# After a consumer lived this long, its restarts begin at 1 s again.
_HEALTHY_SECONDS = 60.0


class ConsumerProcess:
    """The process that takes messages, restarted when it ends by itself, killed when it hangs."""

    def __init__(
        self,
        settings: Settings,
        broker_url: str,
        devices: tuple[str, ...],
        logged: tuple[LogFormat, bool],
    ) -> None:
        self._settings = settings
        self._args = (settings, broker_url, devices, logged)
        self.counters = new_counters(len(devices))  # of each device, whoever consumes
        self._process: SpawnProcess | None = None
        self._stop_pipe: Connection | None = None
        self._started = 0.0
        self._pause = 0.0  # before the last restart
        self._restart_at: float | None = None
        self._watch: PulseWatch | None = None

    def start(self) -> None:
        # Spawned, not forked: it must not inherit threads, connections or locks of this process.
        context = multiprocessing.get_context("spawn")
        consumer_end, self._stop_pipe = context.Pipe(duplex=False)
        pulse = new_pulse()
        args = (*self._args, configured(), consumer_end, pulse, self.counters)
        self._process = context.Process(target=_consume, args=args)
        self._process.start()
        consumer_end.close()
        self._started = time.monotonic()
        self._watch = PulseWatch(pulse, self._settings.silence_seconds)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def shows_life(self) -> bool:
        """Whether it took messages or was busy since the last call; True where it has ended."""
        return self._watch is None or not self.is_alive() or self._watch.heard()

    def excuse_silence(self) -> None:
        """Let it be silent as long again: it has nothing to take."""
        if self._watch is not None:
            self._watch.excuse()

    def kill_if_silent(self) -> None:
        """Kill it if it was silent for too long: `restart_if_dead` then starts another."""
        if self._watch is not None and (fault := self._watch.fault()):
            logger.error("the consumer is killed: %s", fault)
            self.kill()
            self.join()

    def restart_if_dead(self) -> None:
        """Start a new process if the last one ended, after a pause that grows each time."""
        if self._process is None or self.is_alive():
            return
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
        elif moment >= self._restart_at:
            self._restart_at = None
            self.start()

    def stop(self) -> None:
        """Stop it between two batches. May be called in a signal handler, and repeatedly."""
        if self._stop_pipe is not None:
            with suppress(OSError):  # it has ended, or was told before
                self._stop_pipe.send_bytes(b"stop")
            self._stop_pipe.close()

    def join(self) -> None:
        if self._process is not None:
            self._process.join()

    def kill(self) -> None:
        """Kill it and its children at once: they are a process group of their own."""
        if self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # it may not have made its group yet


def log_jobs(log_format: LogFormat, verbose: bool) -> None:
    """Log to stderr what happens to jobs; with `verbose` also every shard and Celery's messages."""
    ours, celery = (logging.DEBUG, logging.INFO) if verbose else (logging.INFO, logging.WARNING)
    start_logging(log_format, {"pipeline": ours, "workers": ours, "celery": celery})


def _consume(
    settings: Settings,
    broker_url: str,
    devices: tuple[str, ...],
    logged: tuple[LogFormat, bool],
    stores: Stores,
    stop_pipe: Connection,
    pulse: Pulse,
    counters: Counters,
) -> None:
    """The main function of the consumer's process, the only one that imports Celery."""
    configure(stores)
    log_jobs(*logged)
    from workers.consumer import consume

    consume(settings, broker_url, devices, stop_pipe, pulse, counters)
