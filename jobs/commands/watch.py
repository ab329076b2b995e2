"""`bei-jobs watch`: follow jobs until they end."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from jobs.options import broker_option, json_option, quiet_option

if TYPE_CHECKING:
    from jobs.follow import View


@click.command(name="watch")
@click.argument("job", metavar="JOB...", nargs=-1, required=True)
@broker_option
@json_option
@quiet_option
def command(job: tuple[str, ...], broker: str | None, as_json: bool, quiet: bool) -> int:
    """Follow each JOB (a job id or an output URI) until all have ended.

    On a terminal, a screen shows the workers with their speed, the shards, the time left and the
    last errors; elsewhere stderr gets plain lines. Ctrl-C stops watching; the jobs go on. With
    --broker, lost messages are sent again meanwhile.
    """
    from jobs.display import Display
    from jobs.find_job import find_job, open_broker
    from jobs.follow import follow
    from jobs.live import Watched
    from workers.settings import load_settings

    queue, settings = open_broker(broker), load_settings()
    found = [find_job(each, settings, queue) for each in job]
    watched = [Watched(output, run, queue) for output, run in found]
    return follow(watched, Display(as_json=as_json, quiet=quiet), _view(quiet))


def _view(quiet: bool) -> AbstractContextManager[View]:
    from jobs.watch_lines import WatchLines

    if not quiet and sys.stderr.isatty():
        from jobs.watch_screen import WatchScreen  # rich takes a moment to import

        screen = WatchScreen()
        if screen.usable:
            return screen
    return nullcontext(WatchLines(quiet=quiet))
