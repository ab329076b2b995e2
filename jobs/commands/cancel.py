"""`bei-jobs cancel`: cancel a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.options import broker_option, job_argument, json_option

if TYPE_CHECKING:
    from pipeline.output.status import JobStatus


@click.command(name="cancel")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Cancel JOB (a job id or an output URI). Committed parts are kept; use `retry` to resume.

    Workers and foreground runs stop within seconds. A finished job stays finished.
    """
    from jobs.cli import print_error, say
    from jobs.find_job import find_job, open_broker
    from jobs.summary import EXIT_DONE, EXIT_FAILED, print_summary
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    before = job_status(output, run)
    if before.state != "done":
        output.cancel(run)
    status = job_status(output, run)
    print_summary(run, status, as_json=as_json)
    if status.state != "cancelled":
        print_error(*_why_nothing(status))
        return EXIT_FAILED
    if before.state == "cancelled":
        say("nothing to cancel: it was cancelled before")
    return EXIT_DONE


def _why_nothing(status: JobStatus) -> tuple[str, str]:
    """Why nothing was cancelled, and what can be done instead."""
    if status.state == "done":
        message = f"nothing to cancel: the job finished at {status.finished}"
        return message, "its output stays as it is; delete the output if you do not want it"
    message = f"nothing to cancel: the job {status.state} at {status.finished}"
    return message, "`bei-jobs retry` tries it again; committed parts are kept"
