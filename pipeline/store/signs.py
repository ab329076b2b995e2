"""Signs of life of what reads: a parent tells slow reading from reading that hangs.

A copy of a large file, compressed text that is skipped, or rows that `--where` does not select may
take many minutes before the first row is tokenized. So this process counts whenever something
arrived, in memory that its parent shares and looks at (`workers.device_process`).
"""

from __future__ import annotations

import ctypes
from multiprocessing.sharedctypes import RawValue


class Signs:
    """How often something arrived in this process.

    There is no lock: an update lost between threads is one sign of many.
    """

    def __init__(self) -> None:
        self._count = ctypes.c_uint64()

    def share(self, count: ctypes.c_uint64) -> None:
        """Count in memory from `new_count`, which another process looks at."""
        self._count = count

    def give(self) -> None:
        """Something arrived."""
        self._count.value += 1


def new_count() -> ctypes.c_uint64:
    """A count in memory that a spawned process shares."""
    return RawValue(ctypes.c_uint64)


signs = Signs()
