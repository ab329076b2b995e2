"""Tell the program that started this process that its run is planned: one line of JSON.

A program that starts `bei-jobs submit` would otherwise know nothing before the job's end. It names
a descriptor in BEI_JOBS_NOTIFY_FD, as services are given a NOTIFY_SOCKET by systemd.
"""

from __future__ import annotations

import json
from contextlib import suppress

from pipeline.output.run import Run


def notify(descriptor: int | None, run: Run, broker: str | None) -> None:
    """Write {"job", "output", "run", "broker"} to `descriptor` and close it.

    It is closed at once, so that no process started later inherits it. A reader that is gone, or
    was never there, is no reason to stop a job.

    Args:
        descriptor: open for writing; None where nobody asked.
        run: that was planned, or found finished.
        broker: whose queue the run goes to; None where it runs here.
    """
    if descriptor is None:
        return
    said = {"job": run.job, "output": run.output, "run": run.n, "broker": broker or None}
    with suppress(OSError), open(descriptor, "wb", buffering=0) as reader:
        reader.write(f"{json.dumps(said)}\n".encode())
