"""The words and numbers that `bei-jobs watch` shows, on a screen and as plain lines."""

from __future__ import annotations

import math

from jobs.live import Live, Worker

_STATES = {"stepped_back": "stepped back", "idle": "idle"}


def number(value: float) -> str:
    """Such as "1,234", "12" or "0.8"."""
    return f"{value:,.1f}" if 0 < value < 10 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min", "3 h 20 min" or "2 d 4 h"."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def percent(live: Live) -> str:
    """The share of the rows that are done; 100 % only where all are."""
    share = 100 * live.rows / live.status.rows if live.status.rows else 100.0
    return f"{math.floor(share)} %"


def rates(live: Live) -> str:
    """Such as "163 rows/s, 9,912 tokens/s"."""
    return f"{number(live.rows_per_second)} rows/s, {number(live.tokens_per_second)} tokens/s"


def time_left(live: Live) -> str:
    """Such as "about 12 min left (10 min to 15 min)"."""
    if (seconds := live.seconds_left()) is None:
        return "the time left is known after half a minute"
    likely, least, most = seconds
    left = f"about {duration(likely)} left"
    if math.isinf(most) or duration(least) == duration(most):
        return left
    return f"{left} ({duration(least)} to {duration(most)})"


def shards(live: Live) -> str:
    """Such as "12 of 30 shards, 2 begun, 1 failed"."""
    status, begun = live.status, live.strip.count(b"~")
    words = [f"{status.shards_done:,} of {status.shards:,} shards"]
    words += [f"{begun:,} begun"] if begun else []
    words += [f"{status.shards_failed:,} failed"] if status.shards_failed else []
    return ", ".join(words)


def state(worker: Worker, job: str) -> str:
    """What a device does, in words."""
    if worker.waits:
        return "waits its turn"
    if worker.report is None:
        return "connected"  # it has just begun, or is an earlier version, which says no more
    if worker.report.state in ("loading", "computing"):
        if worker.report.job != job:
            return f"on job {worker.report.job}"
        return worker.report.state
    return _STATES[worker.report.state]


def model(name: str) -> str:
    """The last part of a model's name, path or URI."""
    return name.rstrip("/").rpartition("/")[2]


def nobody(live: Live) -> str:
    """Why no worker is shown; "" where there are some, or the job is over."""
    if live.workers or live.over or live.trouble:
        return ""
    if live.fleet is not None:
        return "no worker is connected: start one with `bei-jobs worker --broker URL`"
    if live.status.on_queue:
        return "the workers are shown with --broker"
    return "no process runs the job yet"


def clean(text: str, encoding: str) -> str:
    """A text without what would move the cursor or cannot be printed."""
    text = "".join(char if char.isprintable() else " " for char in text)
    return text.encode(encoding, "replace").decode(encoding)
