"""All runs of an output, and the submits that never became one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.output.failures import Failure, read_failures
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, job_status, past_status

# Runs that are read at once: each is a few small requests.
_READERS = 16


@dataclass(frozen=True, slots=True)
class History:
    """What happened on an output, newest first."""

    runs: tuple[tuple[Run, JobStatus], ...]
    unplanned: tuple[Failure, ...]  # the last submits that failed before they had a run


def read_history(output: Output, newest: Run) -> History:
    """The runs of an output up to its newest one, whose parts alone are listed.

    Raises:
        StorageError: the output cannot be read, or a run is damaged.
    """

    def read(n: int) -> tuple[Run, JobStatus]:
        run = output.run(n)
        return run, past_status(output, run)

    numbers = (n for n in reversed(output.run_numbers()) if n < newest.n)
    with ThreadPoolExecutor(_READERS) as pool:
        earlier = tuple(pool.map(read, numbers))
    unplanned = tuple(each for each in read_failures(output.directory) if not each.run)
    return History(((newest, job_status(output, newest)), *earlier), unplanned)
