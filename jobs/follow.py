"""Follow jobs until they end: on a screen, as plain lines, or with a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import click

from jobs.cli import say
from jobs.display import Display
from jobs.live import Live, Watched
from jobs.progress_bar import ProgressBar
from jobs.summary import EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED, exit_code, print_summary, summary
from pipeline.errors import BeiJobsError, JobFailed
from pipeline.store.uris import redact

_POLL_SECONDS = 1.0
# Of several jobs, the worst one counts.
_WORST_FIRST = (EXIT_FAILED, EXIT_QUARANTINED, EXIT_DONE)


class View(Protocol):
    """Shows how jobs stand, again and again."""

    def show(self, lives: Sequence[Live]) -> None: ...


def follow(jobs: Sequence[Watched], display: Display, view: AbstractContextManager[View]) -> int:
    """Show the progress of some jobs until they end, and return the exit code.

    Work that a broker lost is sent again meanwhile. Ctrl-C stops following the jobs, not the jobs.
    """
    lives = [job.look() for job in jobs]
    try:
        with view as shown:
            shown.show(lives)
            while not all(live.over for live in lives):
                time.sleep(_POLL_SECONDS)
                lives = [job.look() for job in jobs]
                shown.show(lives)
    except KeyboardInterrupt:
        return _stopped(lives, display)
    return _concluded(lives, display)


class BarView:
    """One job with a progress bar, and a line above it when the number of workers changes."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._bar: ProgressBar | None = None
        self._trouble = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, lives: Sequence[Live]) -> None:
        """Show how the job stands."""
        (live,) = lives
        if live.fleet is not None:
            self._display.show_fleet(live.fleet, self._bar)
        if self._bar is None:
            total, quiet = live.status.rows, self._display.quiet
            self._bar = ProgressBar(total, live.rows, live.tokens, quiet=quiet)
        if live.trouble != self._trouble:
            self._trouble = live.trouble
            self._bar.write(
                f"{live.trouble}; trying again" if live.trouble else "the broker is back"
            )
        self._bar.show(live.rows, live.status.tokens if live.status.final else live.tokens)


def _stopped(lives: Sequence[Live], display: Display) -> int:
    for live in lives:
        if not live.over:
            say(f"the job continues: bei-jobs watch {live.run.job}", after="\n")
    if display.webhooks:
        display.warn("--notify: nothing is posted when the job ends")
    if display.as_json and len(lives) > 1:
        _print_all(lives)
    elif display.as_json:
        run, status = lives[0].run, lives[0].status
        print_summary(run, status, as_json=True, choices=display.choices, ignored=display.ignored)
    return 130


def _concluded(lives: Sequence[Live], display: Display) -> int:
    if display.as_json and len(lives) > 1:
        _print_all(lives)
        codes = [
            _error(live).exit_code if _left(live) else exit_code(live.status) for live in lives
        ]
    else:
        codes = [
            display.conclude(live.run, live.status, error=_error(live) if _left(live) else None)
            for live in lives
        ]
    return next(code for code in _WORST_FIRST if code in codes)


def _left(live: Live) -> bool:
    return not live.status.final


def _error(live: Live) -> BeiJobsError:
    """Why a job is not watched on that did not end."""
    status = live.status
    return JobFailed(
        f"no process runs job {live.run.job} any more: it was interrupted with "
        f"{status.rows_done:,} of {status.rows:,} rows committed in {redact(live.run.output)}",
        hint="run the command that started it again to resume",
    )


def _print_all(lives: Sequence[Live]) -> None:
    jobs = [summary(live.run, live.status) for live in lives]
    click.echo(json.dumps({"jobs": jobs}))
