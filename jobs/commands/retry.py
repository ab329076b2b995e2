"""`bei-jobs retry`: retry a failed or cancelled job, or the quarantined rows of a finished one."""

from __future__ import annotations

import click

from jobs.options import broker_option, job_argument, json_option


@click.command(name="retry")
@job_argument
@broker_option
@json_option
def command(job: str, broker: str | None, as_json: bool) -> int:
    """Retry JOB (a job id or an output URI) once the cause of its failures has been fixed.

    A failed or cancelled job becomes active again, and its failed shards get all their attempts
    back. Of a finished job, the shards with quarantined rows are computed again, in a new job on
    the same inputs; readers see the old rows until it is done. With --broker the job is queued;
    without it, it runs on this machine, in the foreground.
    """
    from jobs.display import Display
    from jobs.retry_job import retry

    return retry(job, broker, Display(as_json=as_json))
