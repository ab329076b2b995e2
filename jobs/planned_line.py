"""Tell the program that started `submit` that the run is planned: one line of JSON.

Without it, the program would know nothing before the job ends. It names an open descriptor in
BEI_JOBS_NOTIFY_FD, as systemd names a socket in NOTIFY_SOCKET.
"""

from __future__ import annotations

import json
from contextlib import suppress

from pipeline.output.run import Run
from pipeline.store.sections import configured


def tell_parent(descriptor: int | None, run: Run, broker: str | None) -> None:
    """Write {"job", "output", "run", "broker", "stores"} to `descriptor` and close it.

    Closed at once, so that no process started later inherits it. A reader that has gone away does
    not stop the job.

    Args:
        descriptor: open for writing; None if none is given.
        run: planned, or found finished.
        broker: the one that gets the run; None or "" if it runs here.
    """
    if descriptor is None:
        return
    line = {"job": run.job, "output": run.output, "run": run.n, "broker": broker or None}
    line["stores"] = configured().file or None
    with suppress(OSError), open(descriptor, "wb", buffering=0) as reader:
        reader.write(f"{json.dumps(line)}\n".encode())
