"""Where a device's process starts: it listens to its parent, then imports what computes.

`workers.device_main` says what it does after that. This module is cheap to import, so that a
parent can start the process first of all, and the process can ignore signals from the beginning.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store.sections import Stores, configure
from pipeline.store.signs import signs
from workers.logs import LogFormat, set_context, start_logging
from workers.settings import Tokenizing

if TYPE_CHECKING:
    from workers.device_main import Order

#: The parent decides what they mean; a process of a device is started with them blocked.
PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


def serve(
    link: Connection,
    device: str,
    cache_dir: Path | None,
    log_format: LogFormat,
    levels: dict[str, int],
    stores: Stores,
    tokenizing: Tokenizing | None,
    count: ctypes.c_uint64,
) -> None:
    """The main function of a device's process."""
    configure(stores)
    signs.share(count)
    _die_with_parent()
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    if levels or log_format == "json":
        start_logging(log_format, levels)
    set_context(device=device)
    # All that an import makes stays: to look for garbage among it takes a seventh of the time.
    gc.disable()
    from workers.device_main import Jobs, execute
    from workers.engine_cache import EngineCache

    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_receive, args=(link, orders, stop), daemon=True).start()
    import pipeline.canary
    import pipeline.run  # noqa: F401  # torch, while the parent still plans

    gc.freeze()
    gc.enable()
    engines, jobs = EngineCache(cache_dir), Jobs(tokenizing)
    while (order := orders.get()) is not None:
        execute(order, device, engines, link.send, stop.is_set, jobs)
    # Without the exit handlers of libraries, which may hang on a broken device.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _receive(
    link: Connection, orders: queue.SimpleQueue[Order | None], stop: threading.Event
) -> None:
    try:
        while (item := link.recv()) != "quit":
            if item == "stop":
                stop.set()
            else:
                stop.clear()
                orders.put(item)
    except (EOFError, OSError):
        os._exit(1)  # the parent is gone, and nobody would take the results
    stop.set()
    orders.put(None)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even inside a call that hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it died before
