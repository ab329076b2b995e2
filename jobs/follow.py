"""Follow a job on a broker with a progress bar until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobs.cli import say
from jobs.display import Display
from jobs.fleet import fleet_status, view_fleet
from jobs.progress_bar import ProgressBar
from jobs.summary import print_summary
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, job_status

if TYPE_CHECKING:
    from workers.broker import Broker

# Between reads of the live counters, which are cheap.
_POLL_SECONDS = 1.0
# Between reads of the store, at most. It is the truth, but each read lists it: the interval starts
# at _POLL_SECONDS, for small jobs, and doubles each time.
_MAX_STORE_SECONDS = 10.0


def follow(output: Output, run: Run, broker: Broker, display: Display) -> int:
    """Show a job's progress until it ends, reconcile it meanwhile, and return the exit code.

    Ctrl-C stops following the job, not the job itself.
    """
    try:
        status = _until_final(output, run, broker, display)
    except KeyboardInterrupt:
        say(f"the job continues: bei-jobs watch {run.job}", after="\n")
        if display.webhooks:
            display.warn("--notify: nothing is posted when the job ends")
        if display.as_json:
            status, _ = fleet_status(broker, output, run)
            print_summary(
                run, status, as_json=True, choices=display.choices, ignored=display.ignored
            )
        return 130
    return display.conclude(run, status)


def _until_final(output: Output, run: Run, broker: Broker, display: Display) -> JobStatus:
    from workers.reconcile import reconcile  # redis takes a moment to import

    status = job_status(output, run)
    last_read, interval = time.monotonic(), _POLL_SECONDS
    display.show_fleet(view_fleet(broker, [run.job]))
    with ProgressBar(status.rows, status.rows_done, quiet=display.quiet) as bar:
        while not status.final:
            live = broker.progress(run.job)
            bar.show(max(status.rows_done, status.reused + live.rows), live.tokens)
            time.sleep(_POLL_SECONDS)
            complete = live.rows + status.reused >= status.rows
            if complete or time.monotonic() - last_read > interval:
                reconcile(broker, output, run)
                status = job_status(output, run)
                display.show_fleet(view_fleet(broker, [run.job]), bar)
                last_read = time.monotonic()
                interval = min(2 * interval, _MAX_STORE_SECONDS)
        bar.show(status.rows_done, status.tokens)
    return status
