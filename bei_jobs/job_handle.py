"""A job in the hands of its caller: submit it, look at it, wait for it, cancel it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Unpack

from bei_jobs.child import Child, Ended, StillRunning, ask, start
from bei_jobs.errors import Interrupted, JobFailed, NotFound
from bei_jobs.job_status import JobStatus
from bei_jobs.options import (
    PathLike,
    SubmitOptions,
    absolute,
    submit_environment,
    submit_words,
)

# Seconds between reads of the status of a job that another process runs: they double up to a
# maximum.
_POLL_SECONDS = 1.0
_MAX_POLL_SECONDS = 15.0

_RESUME = "committed parts are kept; the same submit resumes"


@dataclass(frozen=True, slots=True)
class Job:
    """One run on one output. Unpickled, it is what `bei_jobs.job` returns: without its process.

    A job without a broker belongs to the program that submitted it. It continues when this object
    is dropped, stops after the current batch when `wait` is interrupted or Python exits, and runs
    to its end when Python is killed. A job on a broker is not affected by any of this.

    Where a damaged file fails the run of such a job, its process goes on with the next run, without
    the file. `wait`, `status` and `cancel` are then about that run.
    """

    id: str
    output: str
    run: int
    # Redis of the fleet that runs it; "" for none, None for the one that the environment names.
    broker: str | None = field(default=None, repr=False, compare=False)  # may hold a password
    # TOML file with the options of stores; "" for none, None for the one in the environment.
    stores: str | None = field(default=None, repr=False, compare=False)
    _child: Child | None = field(default=None, repr=False, compare=False)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job is done.

        An interrupt (Ctrl-C, or what Airflow and Dagster raise to end a task) stops a job that
        runs here after the current batch; a job on a broker continues.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            The final status. Rows that could not be computed are counted in `rows.failed`.

        Raises:
            JobFailed: it failed or was cancelled, with reason and hint.
            Interrupted: it was stopped; the same submit resumes.
            TimeoutError: it is not done yet, and continues.
            BeiJobsError: any other error of the command, such as StorageError.
        """
        if self._child is not None and self._child.is_ours:
            return self._of_child(self._child, timeout)
        if self.broker:
            return JobStatus.of(self._ask("watch", "--quiet", timeout=timeout)).or_fail()
        return self._poll(timeout)

    def status(self) -> JobStatus:
        """The status of the job now, read from its output.

        Raises:
            BeiJobsError: its store or broker cannot be reached, or the job no longer exists.
        """
        status = JobStatus.of(self._ask("status"))
        if status.state != "failed":
            return status
        job = self._job_now()
        if job is None:
            return replace(status, state="running", reason="", hint="", finished=None)
        return status if job == self.id else JobStatus.of(self._ask("status", job=job))

    def cancel(self) -> JobStatus:
        """Stop the job, wherever it runs; committed parts are kept.

        The processes that compute it notice within seconds and end after the current batch.

        Returns:
            The status: cancelled, or done if the job was done before.

        Raises:
            BeiJobsError: its store cannot be reached.
        """
        status = JobStatus.of(self._ask("cancel"))
        while status.state == "failed" and (job := self._job_now()) != status.job:
            if job is None:
                time.sleep(_POLL_SECONDS)
            else:
                status = JobStatus.of(self._ask("cancel", job=job))
        return status

    def log(self) -> str:
        """The stderr of the job's process so far; "" for a job that another program submitted."""
        return "" if self._child is None else self._child.err()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the job without its process, which belongs to this Python process."""
        return (Job, (self.id, self.output, self.run, self.broker, self.stores))

    def _of_child(self, child: Child, timeout: float | None) -> JobStatus:
        try:
            ended = child.wait(timeout)
        except StillRunning:
            raise self._timeout_error(timeout) from None
        if ended.code < 0:
            raise self._killed(ended)
        status = JobStatus.of(ended.answer()).or_fail()
        if status.final:
            return status
        if ended.code == Interrupted.exit_code:
            raise self._stopped(status)
        raise JobFailed(f"the job {self.id} ended with {ended.how}:\n{ended.tail}", hint=_RESUME)

    def _job_now(self) -> str | None:
        """The id of the job that our process runs, or ran last, now that this run has failed.

        None while it is ending, or plans the run that goes on without a damaged file.
        """
        if self._child is None or not self._child.is_ours:
            return self.id
        if not self._child.is_running():
            return self._child.wait().job or self.id
        newest = JobStatus.of(ask("status", self.output, broker=self.broker, stores=self.stores))
        return newest.job if newest.run > self.run else None

    def _stopped(self, status: JobStatus) -> Interrupted:
        done, total = status.rows.done, status.rows.total
        return Interrupted(f"stopped: {done:,} of {total:,} rows are committed", hint=_RESUME)

    def _killed(self, ended: Ended) -> Interrupted | JobFailed:
        message = f"the process of job {self.id} was killed by {ended.how}"
        if -ended.code in (signal.SIGTERM, signal.SIGINT):  # before it could stop by itself
            return Interrupted(message, hint=_RESUME)
        return JobFailed(
            f"{message}; the end of its stderr:\n{ended.tail}" if ended.tail else message,
            hint=f"{_RESUME}; if memory ran out, lower token_budget",
        )

    def _poll(self, timeout: float | None) -> JobStatus:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_SECONDS
        while not (status := self.status()).final:
            if status.state == "interrupted":
                raise self._stopped(status)
            if deadline is not None and time.monotonic() + pause > deadline:
                raise self._timeout_error(timeout)
            time.sleep(pause)
            pause = min(2 * pause, _MAX_POLL_SECONDS)
        return status.or_fail()

    def _timeout_error(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"the job {self.id} is not done after {timeout:g} s, and continues")

    def _ask(
        self, *command: str, job: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Ask by id, which names exactly this run; if it is unknown here, by the output, as long as
        this run is its newest. `job` is another one of the output.
        """
        job = job or self.id
        run = partial(ask, broker=self.broker, stores=self.stores, timeout=timeout)
        try:
            return run(*command, job)
        except NotFound:
            if run("status", self.output)["job"] != job:
                raise
            return run(*command, self.output)


def plan(
    inputs: PathLike | Sequence[PathLike],
    *,
    exact: bool = False,
    price_per_hour: float | None = None,
    **options: Unpack[SubmitOptions],
) -> dict[str, Any]:
    """What `submit` with the same inputs and options would do and cost; nothing is written.

    Args:
        inputs: files, directories, globs, URIs.
        exact: tokenize every text, however many there are.
        price_per_hour: of this machine.
        options: of `submit`.

    Returns:
        The JSON object of `bei-jobs plan --json`.

    Raises:
        BeiJobsError: what `submit` would raise before it starts.
    """
    words = ["--exact"] if exact else []
    words += [] if price_per_hour is None else [f"--price-per-hour={price_per_hour}"]
    return ask("plan", *words, *submit_words(inputs, options), broker=options.get("broker"))


def submit(inputs: PathLike | Sequence[PathLike] = (), **options: Unpack[SubmitOptions]) -> Job:
    """Plan a job and start it: `bei-jobs submit`, in a process of its own.

    The same call again resumes where the last one stopped, and computes only what is missing.

    Args:
        inputs: files, directories, globs or URIs; none where `job_file` names them.
        options: as on the command line, with underscores.

    Returns:
        The job, as soon as it is planned and running, or on the broker's queue.

    Raises:
        UsageError: options that do not make sense, alone or together.
        InputError: an input that is missing, unreadable, empty or without the columns.
        CheckpointError: a model that cannot be found.
        OutputConflict: an output that holds something else.
        StorageError: an output that cannot be written.
        BrokerError: Redis cannot be reached.
    """
    words = submit_words(inputs, options)
    environment = submit_environment(options)
    child, run = start("--quiet", "--no-wait", *words, environment=environment)
    if run is None:
        raise child.wait().error()
    broker, stores = run["broker"] or "", run["stores"] or ""
    if broker:
        child.wait().answer()  # on the queue, or why not
    owned = None if broker else child
    return Job(run["job"], run["output"], run["run"], broker, stores, owned)


def job(job: PathLike, broker: str | None = None, *, stores: PathLike | None = None) -> Job:
    """An existing job, by its id or its output; of an output its newest run.

    Args:
        job: an id that this machine or the broker knows, or an output from anywhere.
        broker: of the fleet that runs it; "" for none, None for the one in the environment.
        stores: TOML file with the options of stores; "" for none, None for the one in the
            environment.

    Raises:
        NotFound: there is none.
        BeiJobsError: the store or the broker cannot be reached.
    """
    file = absolute(stores)
    status = ask("status", "--", os.fspath(job), broker=broker, stores=file)
    return Job(status["job"], status["output"], status["run"], broker, file)
