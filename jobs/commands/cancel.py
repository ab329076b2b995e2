"""`bei-jobs cancel`: stop a job."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="cancel")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Stop JOB (a job id or an output URI). What is committed stays; `retry` goes on.

    Workers stop at the next batch they begin. A finished job stays finished.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.summary import EXIT_DONE, EXIT_FAILED, show
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    if job_status(output, run).state != "done":
        output.cancel(run)
    state = job_status(output, run)
    show(run, state, as_json=as_json)
    return EXIT_DONE if state.state == "cancelled" else EXIT_FAILED
