"""`bei-jobs status`: show the status of a job."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="status")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Show the status of JOB (a job id or an output URI), read from its output.

    With --broker the job is also reconciled: lost messages are sent again, and a complete job is
    finished. The connected workers are shown as well.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.fleet import view_fleet
    from jobs.summary import exit_code, print_summary
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    fleet = None
    if queue is not None:
        from workers.reconcile import reconcile

        reconcile(queue, output, run)
        fleet = view_fleet(queue, [run.job])
    status = job_status(output, run)
    print_summary(run, status, as_json=as_json, fleet=fleet)
    return exit_code(status)
