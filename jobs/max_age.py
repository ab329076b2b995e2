"""`status --max-age`: whether the last good run of an output is recent enough."""

from __future__ import annotations

import re

from pipeline.errors import UsageError
from pipeline.output.manifest import newest_finished
from pipeline.output.output import Output
from pipeline.output.run import seconds_since
from pipeline.output.state import read_checked
from pipeline.store.uris import redact

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


def seconds_of(age: str) -> float:
    """The seconds of an age such as "26h".

    Raises:
        UsageError: it is none.
    """
    match = _AGE.fullmatch(age)
    if match is None:
        raise UsageError(
            f"--max-age {age!r} is not an age", hint="give a number and s, m, h or d, such as 26h"
        )
    return float(match[1]) * _UNITS[match[2]]


def too_old(output: Output, age: str) -> str | None:
    """Why the last good run of an output is too old; None if it is not.

    A run counts from its end, or from when a submit last found it complete and its inputs
    unchanged.

    Raises:
        UsageError: `age` is none.
        StorageError: the output cannot be read.
    """
    limit = seconds_of(age)
    finished = newest_finished(output)
    if finished is None:
        return f"{redact(output.uri)} has no finished run: --max-age {age}"
    run, manifest = finished
    good = max(manifest.finished, read_checked(output, run))
    with output.intact(run.path("manifest.json")):
        passed = seconds_since(good)
    if passed <= limit:
        return None
    return (
        f"the last good run of {redact(output.uri)} dates from {good}, "
        f"{passed / 3600:,.1f} hours ago: more than --max-age {age}"
    )
