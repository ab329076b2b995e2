"""What calls cost a CPU, for trials that choose between ways to compute the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def least_seconds(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The least seconds of each call, all of them once a round, so that a busy machine slows all.

    Of this thread's CPU time, as what others take of a busy machine does not count. Where the
    system counts that in steps of 10 ms (gVisor) or 16 (Windows), a call may take none of them:
    then of time on the clock.
    """
    of_cpu, on_clock = ([float("inf")] * len(calls) for _ in range(2))
    for _ in range(rounds):
        for i, call in enumerate(calls):
            cpu, clock = time.thread_time(), time.perf_counter()
            call()
            of_cpu[i] = min(of_cpu[i], time.thread_time() - cpu)
            on_clock[i] = min(on_clock[i], time.perf_counter() - clock)
    return of_cpu if all(of_cpu) else on_clock
