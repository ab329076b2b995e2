"""Bytes that a process and its parent both map."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

# What a mapping grows by at least: each growth maps the whole again.
_STEP = 2**20


class SharedBytes:
    """A file without a name, so that nothing is left of it whatever ends the two processes.

    Either side writes, and tells the other one how much; no lock is needed, since they take turns.

    Args:
        descriptor: of the file, from `create` or from the process that called it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedBytes:
        """An empty one: in memory on Linux, in the temporary directory elsewhere."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("bei-jobs"))
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()))

    def first(self, size: int) -> npt.NDArray[np.uint8]:
        """The first `size` bytes; the file grows where it has fewer."""
        if self._map is None or len(self._map) < size:
            if os.fstat(self.descriptor).st_size < max(1, size):
                os.ftruncate(self.descriptor, size + max(_STEP, size // 4))
            self._map = mmap.mmap(self.descriptor, 0)  # arrays keep an earlier one alive
        return np.frombuffer(self._map, dtype=np.uint8, count=size)

    def close(self) -> None:
        """Give the descriptor back; arrays stay valid."""
        os.close(self.descriptor)
        self._map = None
