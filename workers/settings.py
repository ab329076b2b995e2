"""The settings of this machine, from the environment; no other module reads it.

    BEI_JOBS_BROKER             Redis of the fleet, redis://[:password@]host:6379/0 or rediss://
    BEI_JOBS_STATE_DIR          known jobs and locks of this machine; default:
                                $XDG_STATE_HOME/bei-jobs or ~/.local/state/bei-jobs
    BEI_JOBS_CACHE_DIR          downloaded checkpoints; default:
                                $XDG_CACHE_HOME/bei-jobs or ~/.cache/bei-jobs
    BEI_JOBS_RECONCILE_SECONDS  how often a worker reconciles its known jobs (30-60 is reasonable)
    BEI_JOBS_LEASE_SECONDS      how long a silent worker keeps the lease of its span; a scheduler
                                renews that of a slot as often, and keeps it four times as long
    BEI_JOBS_SILENCE_SECONDS    a worker's process that neither takes messages nor works on a span
                                for so long has hung, and is replaced
    BEI_JOBS_TASK_SECONDS       a span that runs longer counts as hung, and its process is killed;
                                must be equal on all machines of a fleet
    BEI_JOBS_BATCH_SECONDS      a device that computes no batch and reads nothing for this long is
                                taken for hung, and its process is replaced
    BEI_JOBS_PATIENCE_SECONDS   how long a worker tries again to run a job that it cannot run before
                                its refusal counts; a job that all workers refuse fails
    BEI_JOBS_TOKENIZERS_DIR     a directory with a `tokenizers` 1.x of its own, whose processes
                                tokenize in place of the installed one
    BEI_JOBS_TOKENIZER_PROCESSES  how many processes tokenize for each device; where no directory
                                is given, with the installed one
    BEI_JOBS_STORES             TOML file with the options of stores by URI prefix; the command line
                                reads it, as it reads the variable of each of its options, and
                                `load_stores` the variables that the file names
    BEI_JOBS_NOTIFY_FD          an open file descriptor, 3 or above, of the program that starts
                                `bei-jobs submit`. When the run is planned, one line of JSON is
                                written to it (`jobs.planned_line`) and it is closed; if it closes
                                without a line, planning failed

This module is cheap to import: `bei-jobs --help` and `status` import it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.store.sections import Stores

DEFAULT_LEASE_SECONDS = 30.0
DEFAULT_TASK_SECONDS = 6 * 3600.0
# The settings that are times, and the least value of each.
_TIMES = {
    "reconcile_seconds": 0.1,
    "lease_seconds": 0.5,
    "silence_seconds": 2.0,
    "task_seconds": 10.0,
    "batch_seconds": 0.5,
    "patience_seconds": 0.0,
}
_MIN_FD, _MAX_FD = 3, 2**31 - 1
_MAX_PROCESSES = 256
# A process of 1.x gives some 2 million tokens per second. Cores that compute have less to spare.
_PROCESSES_ON_A_CPU, _PROCESSES_ON_A_GPU = 1, 4

# The connection of every client of this fleet to Redis, Celery's own included. Without a timeout,
# a connection whose other end vanished hangs forever.
REDIS_LINK = {
    "socket_timeout": 10.0,  # seconds
    "socket_connect_timeout": 5.0,  # seconds
    "socket_keepalive": True,
    "health_check_interval": 10,  # seconds
}


@dataclass(frozen=True, slots=True)
class Tokenizing:
    """How the processes that tokenize for a device are started."""

    library: Path | None  # the directory of another `tokenizers`
    processes: int | None  # as set by the user

    def count(self, device: str) -> int:
        """How many a device has: as the user says, one on a CPU, or one per core up to 4."""
        if self.processes is not None:
            return self.processes
        if device == "cpu":
            return _PROCESSES_ON_A_CPU
        return min(_PROCESSES_ON_A_GPU, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of this machine. Times are in seconds."""

    state_dir: Path
    cache_dir: Path
    broker: str | None = None
    reconcile_seconds: float = 45.0
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    silence_seconds: float = 60.0
    task_seconds: float = DEFAULT_TASK_SECONDS
    batch_seconds: float = 600.0
    patience_seconds: float = 180.0
    notify_fd: int | None = None
    tokenizing: Tokenizing | None = None  # None: each device's process tokenizes

    def __post_init__(self) -> None:
        for name, least in _TIMES.items():
            if not getattr(self, name) >= least:  # also refuses NaN
                value = getattr(self, name)
                raise UsageError(f"{_variable(name)} must be at least {least:g}, got {value:g}")


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process.

    Args:
        environment: replaces the environment of the process.

    Raises:
        UsageError: a variable has an invalid value; the variable is named.
    """
    env = os.environ if environment is None else environment
    home = _home(env)
    return Settings(
        state_dir=_directory(env, "state_dir", "XDG_STATE_HOME", home / ".local/state"),
        cache_dir=_directory(env, "cache_dir", "XDG_CACHE_HOME", home / ".cache"),
        broker=env.get("BEI_JOBS_BROKER") or None,
        notify_fd=_descriptor(env, "notify_fd"),
        tokenizing=_tokenizing(env),
        **{name: _seconds(env, name) for name in _TIMES if env.get(_variable(name))},
    )


def send_nothing_home() -> None:
    """Switch off what libraries would tell their makers of this process and those that it starts.

    huggingface_hub tells the hub, with each download, which libraries are installed and which
    program runs it. To be called before it is imported.
    """
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")


def load_stores(file: str) -> Stores:
    """The options of stores by URI prefix, of a TOML file and the variables that it names.

    Raises:
        UsageError: the file cannot be read, or is wrong; file, section and option are named.
    """
    from pipeline.store.stores_file import read_stores  # fsspec takes a moment to import

    return read_stores(file, os.environ)


def environment_without_stores() -> dict[str, str]:
    """The environment of this process for one that is told otherwise which stores file it uses."""
    return {name: value for name, value in os.environ.items() if name != "BEI_JOBS_STORES"}


def _home(env: Mapping[str, str]) -> Path:
    """The home directory; one in the temporary directory where HOME is not set."""
    if env.get("HOME"):
        return Path(env["HOME"])
    return Path(tempfile.gettempdir()) / f"bei-jobs-{os.getuid()}"


def _directory(env: Mapping[str, str], name: str, xdg: str, fallback: Path) -> Path:
    if own := env.get(_variable(name)):
        return Path(own)
    return Path(env.get(xdg) or fallback) / "bei-jobs"


def _seconds(env: Mapping[str, str], name: str) -> float:
    value = env[_variable(name)]
    try:
        return float(value)
    except ValueError:
        raise UsageError(
            f"{_variable(name)}={value!r} is not a number of seconds", hint="such as 45 or 0.5"
        ) from None


def _descriptor(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(_variable(name))
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and _MIN_FD <= int(value) <= _MAX_FD):
        raise UsageError(
            f"{_variable(name)}={value!r} is not a file descriptor of {_MIN_FD} or above",
            hint="0 to 2 are stdin, stdout and stderr",
        )
    return int(value)


def _tokenizing(env: Mapping[str, str]) -> Tokenizing | None:
    folder, count = env.get("BEI_JOBS_TOKENIZERS_DIR"), env.get("BEI_JOBS_TOKENIZER_PROCESSES")
    if folder and not (Path(folder) / "tokenizers").is_dir():
        raise UsageError(
            f"BEI_JOBS_TOKENIZERS_DIR={folder!r} holds no package `tokenizers`",
            hint=f"python -m pip install --no-deps --target {folder} tokenizers==1.0.0rc3",
        )
    if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= _MAX_PROCESSES):
        raise UsageError(
            f"BEI_JOBS_TOKENIZER_PROCESSES={count!r} is not a number from 1 to {_MAX_PROCESSES}"
        )
    if not folder and not count:
        return None
    return Tokenizing(Path(folder) if folder else None, int(count) if count else None)


def _variable(name: str) -> str:
    return f"BEI_JOBS_{name.upper()}"
