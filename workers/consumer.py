"""The process that takes messages from the queue: Celery's prefork pool, one child per device.

It is Celery's controller without its command line: no signal handlers, banner or logging. Only
the pipe from `workers.supervisor` stops it: when that carries a byte or closes, the children stop
between two batches and return their messages to the queue.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing.process
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from billiard.process import current_process
from celery import signals
from celery.worker import WorkController, state
from kombu.transport.redis import Transport

from workers.broker import Broker
from workers.celery_app import make_app
from workers.celery_tasks import MessageHandler, register_tasks
from workers.device_counters import Counters
from workers.device_process import DeviceProcess
from workers.logs import set_context
from workers.pulse import Pulse
from workers.queue_channel import QueueChannel
from workers.reconcile_loop import known_jobs_of
from workers.settings import Settings
from workers.step_back import StepBack

logger = logging.getLogger(__name__)


def consume(
    settings: Settings,
    broker_url: str,
    devices: Sequence[str],
    stop_pipe: Connection,
    pulse: Pulse,
    counters: Counters,
) -> None:
    """Serve the queue until told to stop, then exit the process.

    Args:
        settings: of this machine.
        broker_url: redis:// or rediss://.
        devices: one child each; only that child uses its device.
        stop_pipe: closes, or carries any message, when it is time to stop.
        pulse: counts signs of life for the parent.
        counters: of each device, for the parent.
    """
    os.setsid()  # a terminal's Ctrl-C reaches only the parent, which then closes the pipe
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    stop = multiprocessing.get_context("fork").Event()
    Transport.Channel = QueueChannel
    QueueChannel.pulse = pulse
    app = make_app(broker_url, settings.task_seconds)
    handler = _handler_of_this_process(settings, broker_url, tuple(devices), stop, counters)
    register_tasks(app, handler)
    consumer = multiprocessing.process.current_process()

    def prepare_child(**_: Any) -> None:
        # Stop with the parent, not on a signal that a service manager sends to all.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # billiard puts its own idea of this process, a daemon that may have no children, into the
        # standard library, which cannot spawn from it. This child has one that ends with it.
        multiprocessing.process._current_process = consumer  # type: ignore[attr-defined]
        handler()  # starts the device's process before the first message

    signals.worker_process_init.connect(prepare_child, weak=False)
    controller = _Controller(
        app=app,
        pool_cls="prefork",
        concurrency=len(devices),
        stop_event=stop,
        pulse=pulse,
        # No traffic between workers: each kind costs a subscription, and none is needed.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    threading.Thread(
        target=_wait_for_stop, args=(stop_pipe, stop), name="stop-pipe", daemon=True
    ).start()
    controller.start()
    sys.exit(controller.exitcode or 0)


class _Controller(WorkController):  # type: ignore[misc]  # celery ships no types
    """Tells the children to stop before it waits for them, whatever stops it."""

    def __init__(self, *args: Any, stop_event: Event, pulse: Pulse, **kwargs: Any) -> None:
        self._stop_event = stop_event
        self._pulse = pulse
        super().__init__(*args, **kwargs)

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.on_tick.add(self._on_tick)

    def _on_tick(self) -> None:
        """Count a round of the event loop, and whether every device works on a span."""
        self._pulse.ticks += 1
        if len(state.active_requests) >= self.concurrency:
            self._pulse.signs += 1

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        self._stop_event.set()
        super().stop(in_sighandler, exitcode)


def _handler_of_this_process(
    settings: Settings,
    broker_url: str,
    devices: tuple[str, ...],
    stop: Event,
    counters: Counters,
) -> Any:
    """A function that makes this process's message handler at the first call, after the fork."""
    worker_pid = os.getppid()

    @functools.cache
    def handler() -> MessageHandler:
        # A child that replaces a dead one gets its index, and so its device.
        index = current_process().index
        name = devices[index]
        set_context(device=name)
        broker = Broker(broker_url, patience_seconds=settings.lease_seconds / 2)
        device = DeviceProcess(
            name, settings.cache_dir, settings.batch_seconds, settings.tokenizing
        )
        device.counters = counters[index]
        device.start()
        step_back = StepBack(socket.gethostname(), worker_pid, name, settings.patience_seconds)
        known_jobs = known_jobs_of(settings, broker_url)
        return MessageHandler(settings, broker, known_jobs, device, step_back, stop.is_set)

    return handler


def _wait_for_stop(stop_pipe: Connection, stop: Event) -> None:
    try:
        stop_pipe.recv_bytes()
    except (EOFError, OSError):
        logger.warning("the parent process is gone")
    stop.set()
    state.should_stop = 0  # an exit code, which Celery's loop checks every second
