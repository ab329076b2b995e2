"""`bei-jobs watch` without a terminal: a line when something changes, and twice a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from jobs import watch_words as words
from jobs.cli import say
from jobs.live import Live

_SECONDS = 30.0


class WatchLines:
    """Prints plain lines to stderr; nothing where `quiet`.

    Args:
        quiet: print nothing.
        clock: seconds.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._said: dict[str, tuple[str, ...]] = {}  # job → what is said once
        self._next: dict[str, float] = {}
        self._over: set[str] = set()  # jobs whose end is said

    def show(self, lives: Sequence[Live]) -> None:
        """Say what is new of some jobs."""
        for live in lives if not self._quiet else ():
            self._show(live, f"{live.run.job}  " if len(lives) > 1 else "")

    def _show(self, live: Live, name: str) -> None:
        job, now = live.run.job, self._clock()
        if job in self._over:
            return
        news = tuple(_news(live))
        for line in news:
            if line not in self._said.get(job, ()):
                say(f"{name}{line}")
        self._said[job] = news
        if now >= self._next.get(job, now) or live.over:
            self._next[job] = now + _SECONDS
            say(f"{name}{_progress(live)}")
        if live.over:
            self._over.add(job)


def _progress(live: Live) -> str:
    line = f"{live.rows:,} of {live.status.rows:,} rows ({words.percent(live)})"
    if live.over or not live.rows_per_second:
        return line
    return f"{line}, {words.rates(live)}, {words.time_left(live)}"


def _news(live: Live) -> list[str]:
    lines = [f"{live.status.state}: {words.shards(live)}"] if live.over else []
    lines += [live.trouble and f"{live.trouble}; trying again", words.nobody(live)]
    for worker in live.workers:
        where = f"{worker.host}:{worker.pid} {worker.device}".rstrip()
        lines.append(f"{where}: {words.state(worker, live.run.job)}")
    return [*filter(None, lines), *live.errors]
