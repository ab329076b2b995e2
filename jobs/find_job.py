"""JOB, as the user types it: a job id or an output URI."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import NotFound
from pipeline.output.output import Output, find_run
from pipeline.output.run import Run
from workers.known_jobs import KnownJobs
from workers.settings import Settings

if TYPE_CHECKING:
    from workers.broker import Broker

_JOB_ID = re.compile(r"[0-9a-f]{12}")


def open_broker(url: str | None) -> Broker | None:
    """The fleet's Redis, where one is named."""
    if url is None:
        return None
    from workers.broker import Broker  # redis: a moment to import, only where it is asked

    return Broker(url)


def find_job(job: str, settings: Settings, broker: Broker | None) -> tuple[Output, Run]:
    """The output and the run behind JOB: of an id that very run, of an output its highest.

    Raises:
        NotFound: neither this machine nor the broker knows it.
    """
    if not _JOB_ID.fullmatch(job):
        return find_run(job)
    known = broker.find(job) if broker else None
    known = known or KnownJobs(settings.state_dir).find(job)
    if known is None:
        where = "the broker nor this machine knows" if broker else "this machine does not know"
        raise NotFound(
            f"{'neither ' if broker else ''}{where} a job {job}",
            hint="`bei-jobs list` shows the known ones; an output's URI works everywhere",
        )
    output = Output(known.output)
    return output, output.run(known.n)
