"""A device in a process of its own, whose death is survived.

The parent of that process (the command in the foreground, or a child of Celery's pool) sends an
Order, and receives events until it is over; `workers.device_main` is the other side. An order
for a store inside this process (memory://) runs in a thread of it instead.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import EncodeError
from pipeline.store.sections import configured
from pipeline.store.signs import new_count
from workers.device_counters import DeviceCounters
from workers.device_start import PARENTS_SIGNALS, serve
from workers.logs import log_format
from workers.settings import Tokenizing

if TYPE_CHECKING:
    from workers.device_main import Event, Order
    from workers.engine_cache import EngineCache

# How often a parent looks whether it should stop.
_TICK_SECONDS = 0.1
# Loading may read many gigabytes over a network: it may take this many times as long as a batch.
_LOADING_BATCHES = 6
# How long a process may take to stop between two batches before it is killed.
_CLOSE_SECONDS = 30.0


class DeviceDied(Exception):
    """The process ended, hung or could not be started. `str(error)` completes "the row …"."""

    def __init__(self, reason: str, *, loading: bool) -> None:
        super().__init__(reason)
        self.loading = loading


class DeviceProcess:
    """A device of this machine in a process of its own, started when it is first needed.

    Args:
        device: such as "cpu" or "cuda:1".
        cache_dir: of downloaded checkpoints.
        batch_seconds: without an event for this long, and without a byte or a row that was read,
            it is taken for hung and killed.
        tokenizing: how its tokenizer processes are started; None for none.
    """

    def __init__(
        self,
        device: str,
        cache_dir: Path | None,
        batch_seconds: float,
        tokenizing: Tokenizing | None = None,
    ) -> None:
        self.device = device
        self.counters = DeviceCounters()
        self._cache_dir = cache_dir
        self._batch_seconds = batch_seconds
        self._tokenizing = tokenizing
        self._process: SpawnProcess | None = None
        self._link: Connection | None = None
        self._signs = ctypes.c_uint64()  # of life that the process gave while it read

    def start(self) -> None:
        """Start the process, which imports torch meanwhile; does nothing if it runs.

        Raises:
            EncodeError: this machine has no room for another process.
        """
        if self._process is not None and not self._process.is_alive():
            self._end()  # the kernel kills it with the thread that started it
        if self._process is not None:
            return
        try:
            with _signals_blocked():
                self._process, self._link = self._started()
        except OSError as error:
            raise EncodeError(
                f"no process can be started for {self.device}: {error.strerror or error}",
                hint="check the limits of this machine or container: processes, open files, memory",
            ) from error

    def _started(self) -> tuple[SpawnProcess, Connection]:
        # Spawned, not forked: neither CUDA nor torch's threads survive a fork.
        context = multiprocessing.get_context("spawn")
        link, other = context.Pipe()
        self._signs = new_count()
        process = context.Process(
            target=serve,
            args=(
                other,
                self.device,
                self._cache_dir,
                log_format(),
                _log_levels(),
                configured(),
                self._tokenizing,
                self._signs,
            ),
            name=f"bei-jobs {self.device}",
            daemon=True,  # ends with this process
        )
        process.start()
        other.close()
        return process, link

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Send an order and yield its events up to and including "over".

        Raises:
            DeviceDied: the process ended or hung; the next order starts another one.
        """
        self.start()
        loading, over = True, False
        self.counters.begin_order()
        try:
            for event in self._events(order, should_stop):
                self.counters.count(*event)
                loading &= event[0] != "loaded"
                over = event[0] == "over"
                yield event
        except GeneratorExit:
            if not over:  # nobody wants the rest
                self._abandon()
            raise
        except TimeoutError as error:
            self.kill()
            self.counters.died()
            raise DeviceDied(str(error), loading=loading) from error
        except (EOFError, OSError) as error:
            reason = _how_it_died(self._end())
            self.counters.died()
            raise DeviceDied(reason, loading=loading) from error
        finally:
            self.counters.end_order()

    def _events(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        link = self._link
        assert link is not None
        link.send(order)
        stopping, limit = False, _LOADING_BATCHES * self._batch_seconds
        last, signs = time.monotonic(), self._signs.value
        while True:
            if not stopping and should_stop():
                stopping = True
                link.send("stop")
            if not link.poll(_TICK_SECONDS):
                if self._signs.value != signs:
                    last, signs = time.monotonic(), self._signs.value
                elif time.monotonic() - last > limit:
                    raise TimeoutError(f"took longer than {limit:g} s")
                continue
            event = link.recv()
            last = time.monotonic()
            if event[0] == "loaded":
                limit = self._batch_seconds
            yield event
            if event[0] == "over":
                return

    def _abandon(self) -> None:
        """Have the process stop its order and save what it has; kill it if that takes long."""
        link, deadline = self._link, time.monotonic() + _CLOSE_SECONDS
        assert link is not None
        try:
            link.send("stop")
            while link.poll(max(0.0, deadline - time.monotonic())):
                if link.recv()[0] == "over":
                    return
        except (EOFError, OSError):
            pass
        self.kill()

    def kill(self) -> None:
        """Kill the process at once."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def close(self) -> None:
        """Let the process end between two batches; kill it if that takes long."""
        if self._process is None:
            return
        try:
            if self._link is not None:
                self._link.send("quit")
        except OSError:
            pass
        self._process.join(_CLOSE_SECONDS)
        self.kill()

    def _end(self) -> int | None:
        process, self._process, self._link = self._process, None, None
        assert process is not None
        process.join(_CLOSE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode


class DeviceThread:
    """A device whose orders run in a thread of this process: for stores that live in it."""

    def __init__(self, device: str, engines: EngineCache) -> None:
        self.device = device
        self.counters = DeviceCounters()
        self._engines = engines

    def start(self) -> None:
        """Do nothing: a thread starts with its order."""

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """As of DeviceProcess; it cannot die."""
        from workers.device_main import Jobs, execute

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        abandoned = threading.Event()

        def stop() -> bool:
            return abandoned.is_set() or should_stop()

        work = threading.Thread(
            target=execute, args=(order, self.device, self._engines, events.put, stop, Jobs())
        )
        self.counters.begin_order()
        work.start()
        try:
            event: Event = ("", None)
            while event[0] != "over":
                event = events.get()
                self.counters.count(*event)
                yield event
        finally:
            self.counters.end_order()
            abandoned.set()
            work.join()

    def kill(self) -> None:
        """Do nothing: a thread stops between batches."""

    def close(self) -> None:
        """Do nothing: no order is running."""


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A context in which a Ctrl-C waits: a process that starts in it ignores it from the first."""
    resource_tracker.ensure_running()  # which unblocks signals when it starts a process itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_levels() -> dict[str, int]:
    """Logger → level, as in this process; empty where it only prints warnings."""
    loggers = (logging.getLogger(name) for name in ("pipeline", "workers"))
    return {logger.name: logger.level for logger in loggers if logger.level}


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed its process (signal {-exit_code})"
    return f"ended its process (exit code {exit_code})"
