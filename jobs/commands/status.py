"""`bei-jobs status`: show the status of a job."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="status")
@job_argument
@broker_option
@json_option
@click.option(
    "--max-age",
    metavar="AGE",
    help="Exit 1 if the last good run is older, or there is none; such as 26h, 90m or 2d.",
)
def command(job: str, broker: str | None, as_json: bool, max_age: str | None) -> int:
    """Show the status of JOB (a job id or an output URI), read from its output.

    With --broker the job is also reconciled: lost messages are sent again, and a complete job is
    finished. The connected workers are shown as well.
    """
    from jobs.find_job import find_job, open_broker
    from jobs.fleet import fleet_status
    from jobs.max_age import seconds_of, too_old
    from jobs.summary import EXIT_FAILED, exit_code, print_summary
    from pipeline.output.status import job_status
    from workers.settings import load_settings

    if max_age is not None:
        seconds_of(max_age)  # a wrong one is refused before anything is read
    queue = open_broker(broker)
    output, run = find_job(job, load_settings(), queue)
    fleet = None
    if queue is not None:
        from workers.reconcile import reconcile

        reconcile(queue, output, run)
        status, fleet = fleet_status(queue, output, run)
    else:
        status = job_status(output, run)
    print_summary(run, status, as_json=as_json, fleet=fleet)
    if max_age is not None and (reason := too_old(output, max_age)):
        click.echo(f"bei-jobs: {reason}", err=True)
        return EXIT_FAILED
    return exit_code(status)
