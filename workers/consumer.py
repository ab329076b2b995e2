"""The process that takes messages from the queue: Celery's prefork pool, one child a device.

Not one of Celery's command-line workers but its bare controller: no signal handlers, banner or
logging of its own. It obeys one thing, the pipe to `workers.supervisor`: when that says stop, or
closes because its other end died, children stop between two batches and their messages go back.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from billiard.process import current_process
from celery import signals
from celery.worker import WorkController, state

from workers.broker import Broker
from workers.celery_app import make_app
from workers.celery_tasks import MessageHandler, register_tasks
from workers.engine_cache import EngineCache
from workers.reconcile_loop import queue_jobs
from workers.settings import Settings
from workers.span_attempt import Device

logger = logging.getLogger(__name__)


def consume(
    settings: Settings, broker_url: str, devices: Sequence[str], orders: Connection
) -> None:
    """Serve the queue until told to stop; ends the process.

    Args:
        settings: of this machine.
        broker_url: redis:// or rediss://.
        devices: one child each; no process but that child touches it.
        orders: closes, or carries anything at all, when it is time to stop.
    """
    os.setsid()  # a terminal's Ctrl-C goes to the parent alone, which then gives the order
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    stop = multiprocessing.get_context("fork").Event()
    app = make_app(broker_url, settings.task_seconds)
    register_tasks(app, _servant_of_this_process(settings, broker_url, tuple(devices), stop))
    signals.worker_process_init.connect(_ignore_sigterm)
    controller = _Controller(
        app=app,
        pool_cls="prefork",
        concurrency=len(devices),
        stop_event=stop,
        # No chatter among workers: each costs a subscription, and none is needed.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    threading.Thread(target=_obey, args=(orders, stop), name="orders", daemon=True).start()
    controller.start()
    sys.exit(controller.exitcode or 0)


class _Controller(WorkController):  # type: ignore[misc]  # celery ships no types
    """Tells the children to stop before it waits for them, whatever makes it stop."""

    def __init__(self, *args: Any, stop_event: Event, **kwargs: Any) -> None:
        self._stop_event = stop_event
        super().__init__(*args, **kwargs)

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        self._stop_event.set()
        super().stop(in_sighandler, exitcode)


def _servant_of_this_process(
    settings: Settings, broker_url: str, devices: tuple[str, ...], stop: Event
) -> Any:
    """A function that makes this process's servant when first called, after the fork."""

    @functools.cache
    def handler() -> MessageHandler:
        # A child that replaces a dead one gets the dead one's index, and so its device.
        name = devices[current_process().index]
        broker = Broker(broker_url, patience_seconds=settings.lease_seconds / 2)
        device = Device(name, EngineCache(settings.cache_dir), stop.is_set)
        return MessageHandler(settings, broker, queue_jobs(settings, broker_url), device)

    return handler


def _ignore_sigterm(**_: Any) -> None:
    """In a child: stop with the parent, not at a signal that a service manager sends to all."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _obey(orders: Connection, stop: Event) -> None:
    try:
        orders.recv_bytes()
    except (EOFError, OSError):
        logger.warning("the parent process is gone")
    stop.set()
    state.should_stop = 0  # exit code; Celery's loop looks at it every second
