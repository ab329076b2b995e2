"""`bei-jobs COMMAND --json` in its own process: start it, read its answer, stop it.

Whatever a job loads (PyTorch, Celery, CUDA) stays in that process. It leads a session of its own,
so that the Ctrl-C of a terminal or a notebook reaches it only through `Child.wait`.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from bei_jobs import errors
from bei_jobs.errors import BeiJobsError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# By its path: the caller may have found this package where a new process would not look.
_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
# Lines of stderr that an error quotes.
_TAIL_LINES = 10


class StillRunning(Exception):
    """The timeout has passed, and the process still runs."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and what it wrote."""

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

    @property
    def job(self) -> str:
        """The id of the job whose status it reported; "" if it reported none."""
        return str((self._answer() or {}).get("job", ""))

    def answer(self) -> dict[str, Any]:
        """The JSON object on stdout.

        Raises:
            BeiJobsError: the error that the process reported, of the class that it named.
        """
        answer = self._answer()
        if answer is None or "error" in answer:
            raise self.error()
        return answer

    def error(self) -> BeiJobsError:
        """The error that the process reported; without a report, the last lines on stderr."""
        answer = self._answer() or {}
        if "error" in answer:
            return _kind(answer.get("type", ""))(answer["error"], hint=answer.get("hint", ""))
        return BeiJobsError(
            f"bei-jobs ended with {self.how} and no answer; the end of its stderr:\n{self.tail}",
            hint="a bug, a broken installation, a kill, or not enough memory",
        )

    def _answer(self) -> dict[str, Any] | None:
        try:
            answer = json.loads(self.out)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None


def _kind(name: str) -> type[BeiJobsError]:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BeiJobsError) else BeiJobsError


class Child:
    """One process. It outlives this object; when Python exits, it is asked to stop."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int] = ()
    ) -> None:
        # Files, not pipes: a process that nobody reads, or that outlives this one, must not block.
        self._out, self._err = _new_file(), _new_file()
        for file in (self._out, self._err):
            weakref.finalize(self, file.close)
        self._popen = subprocess.Popen(
            [sys.executable, "-P", _MAIN, *words],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**os.environ, **environment},  # noqa: TID251  (passed on unread)
            pass_fds=descriptors,
            start_new_session=True,
        )
        self._owner = os.getpid()
        _running.difference_update(child for child in list(_running) if not child.is_running())
        _running.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether it is a child of this process, not of the one that this was forked from."""
        return self._owner == os.getpid()

    def is_running(self) -> bool:
        """Whether it is ours and has not ended."""
        return self.is_ours and self._popen.poll() is None

    def err(self) -> str:
        """What it has written to stderr so far."""
        return _text(self._err.fileno())

    def wait(self, timeout: float | None = None) -> Ended:
        """Wait for its end; any exception during the wait stops the process.

        Args:
            timeout: seconds; None waits without limit.

        Raises:
            StillRunning: the timeout has passed.
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
        """Ask it to stop between two batches, and wait until it has.

        A second Ctrl-C meanwhile is passed on, and does not wait for the batch.
        """
        self.request_stop()
        try:
            self._popen.wait()
        except BaseException:
            self.request_stop()
            raise

    def request_stop(self) -> None:
        """As Ctrl-C does, but with SIGTERM: a child of a process that ignores SIGINT, such as a
        pool worker or a background job of a shell, ignores it too.
        """
        self._popen.terminate()


def ask(
    *words: str,
    broker: str | None = None,
    stores: str | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Run a command to its end.

    Args:
        words: the command, without --json.
        broker: in place of the one in the environment.
        stores: the file of store options, in place of the one in the environment.
        timeout: seconds; None waits without limit.

    Returns:
        The JSON object it printed, whatever its exit code.

    Raises:
        TimeoutError: it took longer, and was stopped.
        BeiJobsError: what the command reported.
    """
    command = (words[0], "--json", *words[1:])
    try:
        return _with_child(
            lambda child: child.wait(timeout).answer(), command, _environment(broker, stores)
        )
    except StillRunning:
        raise TimeoutError(f"`bei-jobs {words[0]}` took longer than {timeout:g} s") from None


def start(
    *words: str, environment: Mapping[str, str] | None = None
) -> tuple[Child, dict[str, Any] | None]:
    """Start `submit` and wait until its run is planned.

    Args:
        words: the command, without --json.
        environment: added to that of this process.

    Returns:
        The process, and the run as `jobs.planned_line` describes it; None where planning failed.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as notified, open(writer, "wb") as given:

        def planned(child: Child) -> tuple[Child, bytes]:
            given.close()  # so that reading ends when the process does
            return child, notified.readline()

        variables = {**(environment or {}), "BEI_JOBS_NOTIFY_FD": str(writer)}
        child, line = _with_child(planned, ("submit", "--json", *words), variables, [writer])
    return child, json.loads(line) if line.endswith(b"\n") else None


def _with_child(
    use: Callable[[Child], T],
    words: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int] = (),
) -> T:
    """What `use` returns of a new process, which any exception stops.

    It is started in a thread, where no signal raises anything: an exception in the middle of
    `subprocess.Popen` would leave a process that nobody knows.
    """
    started: list[Child] = []
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: started.append(Child(words, environment, descriptors))).result()
        return use(started[0])
    except BaseException:
        for child in started:
            child.stop()
        raise


def _environment(broker: str | None, stores: str | None) -> dict[str, str]:
    given = {"BEI_JOBS_BROKER": broker, "BEI_JOBS_STORES": stores}
    return {name: value for name, value in given.items() if value is not None}


def _new_file() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _text(descriptor: int) -> str:
    # Not by read and seek: the position is shared with the process that writes.
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


#: Children that have not been seen to end.
_running: set[Child] = set()


@atexit.register
def _stop_all() -> None:
    for child in list(_running):
        if child.is_running():
            logger.warning("stopping a job: the program that submitted it is ending")
            child.request_stop()
