"""`bei-jobs cancel`: cancel a job."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="cancel")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Cancel JOB (a job id or an output URI). Committed parts are kept; use `retry` to resume.

    Workers and foreground runs stop within seconds. A finished job stays finished.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.summary import EXIT_DONE, EXIT_FAILED, print_summary
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    if job_status(output, run).state != "done":
        output.cancel(run)
    status = job_status(output, run)
    print_summary(run, status, as_json=as_json)
    return EXIT_DONE if status.state == "cancelled" else EXIT_FAILED
