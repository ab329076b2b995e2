"""Which errors mean that a device is out of memory."""

from __future__ import annotations

import torch

# What torch writes in a bare RuntimeError when a CPU is out of memory.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, its cause or its context means that memory ran out.

    The context counts because the end of a graph capture fails after the allocation that did.
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if any(message in str(error) for message in _CPU_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False
