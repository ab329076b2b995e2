"""Where an engine computes: a device by name, and a CPU's cores."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline.errors import UsageError


def gpu_count() -> int:
    """The CUDA devices that torch sees on this machine."""
    return int(torch.cuda.device_count())


def find_device(name: str) -> torch.device:
    """The torch device of a name.

    Raises:
        UsageError: there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}", hint="Use cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"no device {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs",
            hint="Use cpu, or check the driver and that torch was built for it.",
        )
    return device


def thread_per_core(streams: int, threads: int) -> ThreadPoolExecutor:
    """Threads that share torch's threads among them, all of them started."""
    ready = threading.Barrier(streams + 1)

    def start() -> None:
        # At its first operator, or here, a thread takes over the number that anyone set last, once:
        # without this call that would undo the next one.
        torch.get_num_threads()
        torch.set_num_threads(threads // streams)
        ready.wait()

    pool = ThreadPoolExecutor(streams, thread_name_prefix="encode", initializer=start)
    for _ in range(streams):
        pool.submit(int)  # a thread is started when there is work for it
    ready.wait()
    # Each thread has a number of its own, but new ones inherit the last that anyone set.
    torch.set_num_threads(threads)
    return pool
