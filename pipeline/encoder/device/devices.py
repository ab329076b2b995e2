"""Where an engine computes: a device by name, and the cores of a CPU."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import UsageError

# Batches computed at once on a CPU. Each takes memory, so if there are more cores than batches,
# several cores share one.
_CPU_STREAMS = 8


def gpu_count() -> int:
    """Number of CUDA devices that torch sees on this machine."""
    return int(torch.cuda.device_count())


def resident_bytes() -> int:
    """Memory of this process; outside of Linux the most that it ever had."""
    if (statm := Path("/proc/self/statm")).exists():
        pages = int(statm.read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def find_device(name: str) -> torch.device:
    """The torch device with a name such as cpu, cuda or cuda:1.

    Raises:
        UsageError: this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}", hint="use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"no device {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs",
            hint="use cpu, or check the GPU driver and that torch is built for its CUDA version",
        )
    return device


def cpu_streams(threads: int) -> int:
    """How many batches a CPU computes at once with so many of torch's threads."""
    return min(threads, _CPU_STREAMS)


def thread_per_core(streams: int, threads: int) -> ThreadPoolExecutor:
    """A pool of `streams` started threads that divide torch's `threads` among them."""
    ready = threading.Barrier(streams + 1)

    def start() -> None:
        # A thread adopts the number that any thread set last, once: at its first operator or at
        # this call. Without this call, that would undo the number set next.
        torch.get_num_threads()
        torch.set_num_threads(threads // streams)
        ready.wait()

    pool = ThreadPoolExecutor(streams, thread_name_prefix="encode", initializer=start)
    for _ in range(streams):
        pool.submit(int)  # a pool starts a thread only for work
    ready.wait()
    # The number is per thread, but new threads inherit the one that any thread set last.
    torch.set_num_threads(threads)
    return pool


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch computes in one thread.

    Several that share many small operators wait for each other after each, which takes far longer
    than the work itself where other processes have the cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
