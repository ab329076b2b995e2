"""Follow a job on a broker with the bar until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from jobs.display import Display
from jobs.progress_bar import ProgressBar
from jobs.summary import exit_code, show
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, job_status

if TYPE_CHECKING:
    from workers.broker import Broker

#: Between looks at the live counters, which are cheap …
_POLL_SECONDS = 1.0
#: … and at the store, which is the truth and costs a listing: soon for a small job, then twice as
#: late each time, up to this.
_STORE_SECONDS = 10.0


def follow(output: Output, run: Run, queue: Broker, display: Display) -> int:
    """Show a job's progress until it is final; reconcile it on the way.

    Ctrl-C stops following, not the job.
    """
    try:
        state = _until_final(output, run, queue, display)
    except KeyboardInterrupt:
        click.echo(f"\nthe job continues: bei-jobs watch {run.job}", err=True)
        if display.as_json:
            show(run, job_status(output, run), as_json=True, choices=display.choices)
        return 130
    show(run, state, as_json=display.as_json, choices=display.choices)
    return exit_code(state)


def _until_final(output: Output, run: Run, queue: Broker, display: Display) -> JobStatus:
    from workers.reconcile import reconcile  # redis: a moment to import

    state = job_status(output, run)
    looked, patience = time.monotonic(), _POLL_SECONDS
    with ProgressBar(state.rows, state.rows_done, quiet=display.quiet) as bar:
        while not state.final:
            live = queue.progress(run.job)
            bar.show(max(state.rows_done, state.reused + live.rows), live.tokens)
            time.sleep(_POLL_SECONDS)
            complete = live.rows + state.reused >= state.rows
            if complete or time.monotonic() - looked > patience:
                reconcile(queue, output, run)
                state = job_status(output, run)
                looked, patience = time.monotonic(), min(2 * patience, _STORE_SECONDS)
        bar.show(state.rows_done, state.tokens)
    return state
