"""How a worker's parent knows that its consumer consumes, however the consumer fails.

The consumer counts in shared memory; the parent looks once a second. A consumer is fine while it
takes messages (Redis answers its pops, if only that there are none) or every device of it works
on a span, which may take hours. One that does neither has hung, whatever the reason.
"""

from __future__ import annotations

import ctypes
import time
from multiprocessing.sharedctypes import RawValue

# More than this between two looks was spent elsewhere: the parent, or the machine, stood still.
_MAX_STEP_SECONDS = 1.5
# The first signs of life come after torch is imported and the children are started.
_START_FACTOR = 5


class Pulse(ctypes.Structure):
    """The consumer's counters; only it writes them."""

    ticks: int
    signs: int

    _fields_ = (
        ("ticks", ctypes.c_uint64),  # rounds of the consumer's event loop
        ("signs", ctypes.c_uint64),  # of life: a pop was answered, or every device was at work
    )


def new_pulse() -> Pulse:
    """A pulse in memory that a spawned process shares."""
    return RawValue(Pulse)


class PulseWatch:
    """The parent's clock over the silence of a consumer.

    Only time in which Redis answered the parent counts: without Redis there is nothing to consume.

    Args:
        pulse: of the consumer, just started.
        seconds: how long it may be silent; at its start five times as long.
    """

    def __init__(self, pulse: Pulse, seconds: float) -> None:
        self._pulse = pulse
        self._seconds = seconds
        self._allowed = _START_FACTOR * seconds
        self._seen = (0, 0)
        self._looked = time.monotonic()
        self._silent = 0.0
        self._ticked = False  # since the last sign of life

    def heard(self) -> bool:
        """Whether there was a sign of life since the last look."""
        before, self._seen = self._seen, (self._pulse.ticks, self._pulse.signs)
        moment = time.monotonic()
        step, self._looked = min(moment - self._looked, _MAX_STEP_SECONDS), moment
        if self._seen[1] != before[1]:
            self._silent, self._ticked, self._allowed = 0.0, False, self._seconds
            return True
        self._ticked |= self._seen[0] != before[0]
        self._silent += step
        return False

    def excuse(self) -> None:
        """Start the silence anew: Redis cannot be reached."""
        self._silent = 0.0

    def fault(self) -> str | None:
        """Why the consumer must be replaced; None while it need not be."""
        if self._silent < self._allowed:
            return None
        if not self._ticked:
            return f"its event loop has stood still for {self._silent:.0f} s"
        return f"for {self._silent:.0f} s it took no message though a device of it was free"
