"""`bei-jobs watch`: follow a job until it ends."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option, quiet_option


@click.command(name="watch")
@job_argument
@broker_option
@json_option
@quiet_option
def command(job: str, broker: str | None, as_json: bool, quiet: bool) -> int:
    """Follow JOB (a job id or an output URI) on a broker with a progress bar until it ends.

    Needs --broker. Lost messages are sent again meanwhile.
    """
    from jobs.display import Display
    from jobs.find_job import find_job
    from jobs.follow import follow
    from pipeline.errors import UsageError
    from workers.broker import Broker
    from workers.settings import load_settings

    if not broker:
        raise UsageError(
            "watch needs the job's --broker", hint="give --broker or set BEI_JOBS_BROKER"
        )
    queue = Broker(broker)
    output, run = find_job(job, load_settings(), queue)
    return follow(output, run, queue, Display(as_json=as_json, quiet=quiet))
