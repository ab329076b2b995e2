"""`bei-jobs status`: how a job stands."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="status")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """How JOB (a job id or an output URI) stands, read from its output.

    With --broker the job is also put right: lost messages are sent again, a complete job is
    finished.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.summary import exit_code, show
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    if queue is not None:
        from workers.reconcile import reconcile

        reconcile(queue, output, run)
    state = job_status(output, run)
    show(run, state, as_json=as_json)
    return exit_code(state)
