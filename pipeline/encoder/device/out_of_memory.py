"""How a device says that it has no memory left."""

from __future__ import annotations

import torch

# What torch says in a bare RuntimeError where a CPU's memory ran out.
_CPU_WORDS = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error means memory, or was raised while one that does was being handled: inside
    the capture of a graph, the end of the capture fails after it.
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if any(words in str(error) for words in _CPU_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
