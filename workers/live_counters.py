"""Live counters of a job in Redis, for progress bars and rates. Advisory: the store is the truth.

bei:job:<job>:progress        hash  rows, tokens, updated (epoch seconds by Redis's clock)
bei:job:<job>:pace:<decade>   hash  rows and tokens of ten seconds; expires after a minute
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# redis-py's own types are a union over every protocol and kind of client.
Client = Any

_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_BUCKET_SECONDS = 10
_BUCKETS = 3  # complete buckets that a rate is taken over
_KEEP_SECONDS = 60
# Counters of a job that never ended expire in the end.
_FORGET_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Progress:
    """What the workers of a job have computed so far, and how fast recently."""

    rows: int = 0
    tokens: int = 0
    updated: float = 0.0  # seconds since the epoch by Redis's clock; 0: never
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0


def add_progress(client: Client, job: str, rows: int, tokens: int) -> None:
    """Add rows and tokens that a device just computed; negative values take them back."""
    seconds, _ = client.time()
    total, pace = f"bei:job:{job}:progress", _pace_key(job, seconds // _BUCKET_SECONDS)
    with client.pipeline(transaction=False) as pipe:
        pipe.hincrby(total, "rows", rows)
        pipe.hincrby(total, "tokens", tokens)
        pipe.hset(total, "updated", seconds)
        pipe.expire(total, _FORGET_SECONDS)
        pipe.hincrby(pace, "rows", rows)
        pipe.hincrby(pace, "tokens", tokens)
        pipe.expire(pace, _KEEP_SECONDS)
        pipe.execute()


def read_progress(client: Client, job: str) -> Progress:
    """The counters, and rates over the last complete ten-second buckets."""
    seconds, _ = client.time()
    current = seconds // _BUCKET_SECONDS
    with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(f"bei:job:{job}:progress")
        for bucket in range(current - _BUCKETS, current):
            pipe.hgetall(_pace_key(job, bucket))
        total, *buckets = pipe.execute()
    duration = _BUCKETS * _BUCKET_SECONDS
    return Progress(
        rows=_number(total, "rows"),
        tokens=_number(total, "tokens"),
        updated=float(_number(total, "updated")),
        rows_per_second=max(0, sum(_number(b, "rows") for b in buckets)) / duration,
        tokens_per_second=max(0, sum(_number(b, "tokens") for b in buckets)) / duration,
    )


def _number(counters: dict[str, str], name: str) -> int:
    """A counter; 0 where it is missing, or another program wrote something else."""
    text = counters.get(name, "0")
    return int(text) if _NUMBER.fullmatch(text) else 0


def forget_progress(client: Client, job: str) -> None:
    """Delete the totals; the ten-second buckets expire by themselves."""
    client.delete(f"bei:job:{job}:progress")


def _pace_key(job: str, bucket: int) -> str:
    return f"bei:job:{job}:pace:{bucket}"
