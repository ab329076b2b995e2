"""Ctrl-C and SIGTERM: the first asks for a stop between two batches, a second one does not wait."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """A signal handler: the first Ctrl-C or SIGTERM sets it, a second one interrupts at once."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._set = False
        self._on_stop = on_stop

    def is_set(self) -> bool:
        return self._set

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        self._on_stop()


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM interrupts as Ctrl-C does, so that contexts are left and tidy up."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stoppable(on_stop: Callable[[], None]) -> Iterator[Stop]:
    """A stop that signals set while the context is open; `on_stop` is called by the first one."""
    stop = Stop(on_stop)
    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
