"""`bei-jobs retry`: retry a failed or cancelled job."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="retry")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Reset the attempts of the failed shards of JOB (a job id or an output URI).

    A cancelled job becomes active again. With --broker the missing shards are queued; without it,
    run the job's submit command again.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.summary import exit_code, print_summary
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    output.forget_failures(run)
    if queue is not None:
        from workers.reconcile import reconcile

        queue.register(run)
        reconcile(queue, output, run)
    status = job_status(output, run)
    print_summary(run, status, as_json=as_json)
    return exit_code(status)
