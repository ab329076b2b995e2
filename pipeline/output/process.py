"""Which process on which machine: who wrote something, and whether it still runs."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

# In /proc/<pid>/stat, counted from the state, which follows the name in parentheses.
_STATE, _START = 0, 19
_ENDED_STATES = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, named so that no other one is taken for it."""

    host: str
    pid: int
    space: str  # boot and namespace that the pid is one of; "" where the system does not say
    started: str  # in the system's own units; "" likewise

    @classmethod
    def current(cls) -> Self:
        return cls(socket.gethostname(), os.getpid(), _pid_space(), _started(os.getpid()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(str(data["host"]), int(data["pid"]), str(data["space"]), str(data["started"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_running(self) -> bool | None:
        """Whether it still runs; None where that cannot be seen from here, as on other machines."""
        if not self.space or self.space != _pid_space():
            return None
        return bool(self.started) and _started(self.pid) == self.started


def user_and_host() -> str:
    """Who runs this process, as "user@host"."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _pid_space() -> str:
    """Hosts may share a name, and containers number their processes by themselves."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process with this id began; "" if there is none, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[_STATE] in _ENDED_STATES else fields[_START]
