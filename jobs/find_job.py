"""Find the job that a user names by a job id or by an output URI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import NotFound
from pipeline.output.output import Output, find_run
from pipeline.output.run import Run
from workers.known_jobs import KnownJobs, is_job_id
from workers.settings import Settings

if TYPE_CHECKING:
    from workers.broker import Broker


def open_broker(url: str | None) -> Broker | None:
    """The broker at `url`; None without a URL."""
    if url is None:
        return None
    from workers.broker import Broker  # redis takes a moment to import

    return Broker(url)


def find_job(job: str, settings: Settings, broker: Broker | None) -> tuple[Output, Run]:
    """The output and the run that JOB names: an id names one run, an output its latest.

    Raises:
        NotFound: neither this machine nor the broker knows the id, or the output has no run.
    """
    if not is_job_id(job):
        return find_run(job)
    ref = broker.find(job) if broker else None
    ref = ref or KnownJobs(settings.state_dir).find(job)
    if ref is None:
        raise NotFound(
            f"job {job} is unknown to this machine{' and to the broker' if broker else ''}",
            hint="see the known jobs with `bei-jobs list`, or give the URI of the job's output",
        )
    output = Output(ref.output)
    return output, output.run(ref.n)
