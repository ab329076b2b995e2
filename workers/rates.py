"""How fast this machine computed before: what `bei-jobs plan` reckons with.

    <state_dir>/rates/<digest of space and device>.json   the last run of a space in the foreground
                                                          that computed for at least MIN_SECONDS,
                                                          and most of its rows
    <cache_dir>/rates/<digest of kind and device>.json    the last calibration of a kind of work

No job depends on these files.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from pipeline.output.run import now
from pipeline.output.versions import software_versions
from pipeline.spec import JobSpec, digest
from pipeline.store.small_file import read_small, replace_small

# A shorter run says little: it ends before all caches are warm.
MIN_SECONDS = 5.0
_MAX_BYTES = 4096
_MAX_RATE, _MAX_LOADING = 1e12, 1e6


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast devices compute."""

    tokens_per_second: float
    loading_seconds: float  # before the first batch
    source: str

    def times(self, devices: int) -> Rate:
        """The rate of several devices that are alike."""
        return replace(self, tokens_per_second=self.tokens_per_second * devices)


class Stopwatch:
    """Measures a run from its start on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._loaded: float | None = None
        self._tokens = 0

    def loaded(self) -> None:
        """A device is ready; the first one counts."""
        self._loaded = self._loaded or time.monotonic()

    def add(self, tokens: int) -> None:
        """Tokens that were computed."""
        self._tokens += tokens

    def rate(self) -> Rate | None:
        """The rate until now; None if the run was too short to tell."""
        if self._loaded is None or not self._tokens:
            return None
        seconds = time.monotonic() - self._loaded
        if seconds < MIN_SECONDS:
            return None
        return Rate(self._tokens / seconds, self._loaded - self._started, "last run")


def kind_of_work(spec: JobSpec, precision: str, mean_tokens: float) -> str:
    """16 hex digits over what decides how many tokens this machine computes per second.

    Fine-tuned models of one architecture have one kind, and so have all columns, prompts and
    corpora of texts that are about as long.

    Args:
        spec: of the job.
        precision: in which it computes.
        mean_tokens: of a row.
    """
    # A cache may be shared by machines.
    machine = platform.node(), platform.machine(), os.cpu_count(), software_versions()
    work = spec.encoder, spec.task, spec.max_length, precision, spec.token_budget
    return digest(machine, work, round(math.log2(mean_tokens)))


class Rates:
    """The rates that this machine remembers. A file that cannot be read counts as missing.

    Args:
        directory: state_dir for runs by their space, cache_dir for calibrations by kind of work.
        source: what `find` says of them.
    """

    def __init__(self, directory: Path, source: str = "last run") -> None:
        self._folder = directory / "rates"
        self._source = source

    def remember(self, space: str, devices: Sequence[str], rate: Rate | None) -> None:
        """Store a rate; do nothing without one, or where the directory is read-only."""
        if rate is None:
            return
        data = {
            "space": space,
            "devices": list(devices),
            "tokens_per_second": round(rate.tokens_per_second, 3),
            "loading_seconds": round(rate.loading_seconds, 3),
            "measured": now(),
        }
        with suppress(OSError):
            replace_small(self._path(space, devices), json.dumps(data))

    def find(self, space: str, devices: Sequence[str]) -> Rate | None:
        """The last rate of a space, or of a kind of work, on some devices."""
        text = read_small(self._path(space, devices), _MAX_BYTES)
        try:
            data = None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict):
            return None
        if (data.get("space"), data.get("devices")) != (space, list(devices)):
            return None
        tokens, loading = data.get("tokens_per_second"), data.get("loading_seconds")
        if not (_between(tokens, 1e-3, _MAX_RATE) and _between(loading, 0.0, _MAX_LOADING)):
            return None
        return Rate(float(tokens), float(loading), self._source)

    def _path(self, space: str, devices: Sequence[str]) -> Path:
        return self._folder / f"{digest(space, list(devices))}.json"


def _between(value: object, least: float, most: float) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and least <= value <= most
