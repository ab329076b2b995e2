"""`bei-jobs WORDS… --json` in a process of its own: what it says, and how it is stopped.

Whatever a job loads (PyTorch, Celery, CUDA) stays there. The process leads a session of its own: a
notebook's or a terminal's interrupt reaches it only through whoever waits for it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from bei_jobs import errors
from bei_jobs.errors import BeiJobsError

logger = logging.getLogger(__name__)

#: By its path: whoever calls may have found this package where a new process would not look.
_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
#: How much of what a process said goes into an error.
_TAIL_LINES = 10


class StillRunning(Exception):
    """The time to wait is over, and the process goes on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process left behind."""

    code: int  # that of the command, or minus the signal that ended it
    out: str
    err: str

    @property
    def how(self) -> str:
        """The exit code or the signal, in words."""
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"

    @property
    def tail(self) -> str:
        """The last lines on stderr."""
        return "\n".join(self.err.strip().splitlines()[-_TAIL_LINES:])

    def answer(self) -> dict[str, Any]:
        """The JSON object on stdout.

        Raises:
            BeiJobsError: what the process reported, in the class that it named.
        """
        said = self._said()
        if said is None or "error" in said:
            raise self.error()
        return said

    def error(self) -> BeiJobsError:
        """What the process reported; its last words where it came to no report."""
        said = self._said() or {}
        if "error" in said:
            return _kind(said.get("type", ""))(said["error"], hint=said.get("hint", ""))
        return BeiJobsError(
            f"bei-jobs ended with {self.how} and no answer; its last words:\n{self.tail}",
            hint="a bug or a broken installation; or somebody ended it, or memory ran out",
        )

    def _said(self) -> dict[str, Any] | None:
        try:
            said = json.loads(self.out)
        except ValueError:
            return None
        return said if isinstance(said, dict) else None


def _kind(name: str) -> type[BeiJobsError]:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BeiJobsError) else BeiJobsError


class Child:
    """One process. It goes on when this object is dropped, and is told to stop as Python exits."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int] = ()
    ) -> None:
        # Files, not pipes: nobody has to read them for the process to go on, and it may outlive us.
        self._out, self._err = _new_file(), _new_file()
        for file in (self._out, self._err):
            weakref.finalize(self, file.close)
        self._popen = subprocess.Popen(
            [sys.executable, "-P", _MAIN, *words],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**os.environ, **environment},  # noqa: TID251  (handed on unread)
            pass_fds=descriptors,
            start_new_session=True,
        )
        self._owner = os.getpid()
        _running.difference_update(child for child in list(_running) if not child.is_running())
        _running.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this process started it; a fork of that one has no children to wait for."""
        return self._owner == os.getpid()

    def is_running(self) -> bool:
        """Whether there is something to wait for."""
        return self.is_ours and self._popen.poll() is None

    def err(self) -> str:
        """What it has said on stderr so far."""
        return _text(self._err.fileno())

    def wait(self, timeout: float | None = None) -> Ended:
        """Wait for its end; whatever interrupts the wait stops the process.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            StillRunning: the time is over.
        """
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StillRunning from None
        except BaseException:
            self.stop()
            raise
        return Ended(code, _text(self._out.fileno()), self.err())

    def stop(self) -> None:
        """Have it stop between two batches, and wait until it has.

        A second Ctrl-C meanwhile is passed on, and does not wait for the batch.
        """
        self.tell_to_stop()
        try:
            self._popen.wait()
        except BaseException:
            self.tell_to_stop()
            raise

    def tell_to_stop(self) -> None:
        """As Ctrl-C does. Not by SIGINT, to which a process is deaf whose parent ignores it, as
        those of pools and of background shells do.
        """
        self._popen.terminate()


def ask(*words: str, broker: str | None = None, timeout: float | None = None) -> dict[str, Any]:
    """Run a command to its end.

    Args:
        words: the command, without --json.
        broker: in place of the one in the environment.
        timeout: seconds; None waits for ever.

    Returns:
        The JSON object it printed, whatever its exit code.

    Raises:
        TimeoutError: it took longer, and was stopped.
        BeiJobsError: what the command reported.
    """
    child = Child((words[0], "--json", *words[1:]), _environment(broker))
    try:
        return child.wait(timeout).answer()
    except StillRunning:
        child.stop()
        raise TimeoutError(f"`bei-jobs {words[0]}` took longer than {timeout:g} s") from None


def start(*words: str, broker: str | None = None) -> tuple[Child, dict[str, Any] | None]:
    """Start `submit` and listen until its run is planned.

    Returns:
        The process, and what it said of the run; None where it ends without one.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as notified:
        try:
            said_where = {"BEI_JOBS_NOTIFY_FD": str(writer)}
            child = Child(("submit", "--json", *words), _environment(broker) | said_where, [writer])
        finally:
            os.close(writer)
        try:
            line = notified.readline()
        except BaseException:
            child.stop()
            raise
    return child, json.loads(line) if line.endswith(b"\n") else None


def _environment(broker: str | None) -> dict[str, str]:
    return {} if broker is None else {"BEI_JOBS_BROKER": broker}


def _new_file() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _text(descriptor: int) -> str:
    # At a position of its own: that of the descriptor is shared with the process that writes.
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


#: Those not seen to end yet. Held here so that a job goes on when nobody holds it.
_running: set[Child] = set()


@atexit.register
def _stop_all() -> None:
    for child in list(_running):
        if child.is_running():
            logger.warning("a job was told to stop: the program that submitted it ends")
            child.tell_to_stop()
