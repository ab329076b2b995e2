"""The main function of a device's process that reads compressed files little by little.

In a module of its own, so that a process that is spawned can import it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from pipeline.store.directory import OpenedFile
from workers.device_start import serve

#: A file is read in so many steps, each of which takes so long.
STEPS, STEP_SECONDS = 40, 0.1
#: A file of this name is read for a few steps, and then no more.
HANGS = "hangs.jsonl.gz"


def serve_slowly(*arguments: Any) -> None:
    """As `workers.device_start.serve`."""
    read, steps = OpenedFile.read, 0

    def read_slowly(self: OpenedFile, size: int = -1) -> bytes:
        nonlocal steps
        if not self.uri.endswith(".gz"):
            return read(self, size)
        path, steps = Path(self.uri), steps + 1
        if path.name == HANGS and steps > STEPS // 4:
            threading.Event().wait()
        time.sleep(STEP_SECONDS)
        step = path.stat().st_size // STEPS + 1
        return read(self, min(size, step) if size > 0 else step)

    OpenedFile.read = read_slowly  # type: ignore[method-assign]
    serve(*arguments)
