"""A terminal for the tests: a command in a pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

DEADLINE_S = 60.0


class Terminal:
    """A command whose stdin and stderr are a terminal; its stdout too, or a file.

    Args:
        words: of the command.
        columns: of the terminal.
        lines: likewise.
        out: file for stdout; None for the terminal.
        environment: added to that of the test.
    """

    def __init__(
        self,
        words: list[str],
        columns: int = 100,
        lines: int = 30,
        out: Path | None = None,
        **environment: str,
    ) -> None:
        self._leader, follower = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, lines)
        plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        stdout = follower if out is None else out.open("wb")
        self.process = subprocess.Popen(
            words,
            env={**plain, "TERM": "xterm-256color", **environment},
            stdin=follower,
            stdout=stdout,
            stderr=follower,
            start_new_session=True,
            # A suite that runs in the background of a shell ignores SIGINT, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(follower)

    def resize(self, columns: int, lines: int) -> None:
        """As when its window is dragged."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, size)
        self.screen.resize(lines, columns)

    def text(self) -> str:
        """What the screen shows."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def until(self, condition: Callable[[str], object], what: str = "") -> str:
        """Read until the screen fulfils a condition; what it shows then."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition(self.text()):
            if time.monotonic() > deadline or not self._read(deadline):
                raise AssertionError(f"still waiting for {what or condition}:\n{self.text()}")
        return self.text()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Kill the command, if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def _read(self, deadline: float) -> bool:
        """Read what there is; False at the end."""
        if not select.select([self._leader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._leader, 65536)
        except OSError:  # Linux says so when nobody has the other end
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)
