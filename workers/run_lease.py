"""While this process runs a job in the foreground, the store says so (`pipeline.output.leases`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import StorageError
from pipeline.output.leases import LOCAL_RENEW_SECONDS, RENEW_SECONDS, RunLease, sweep_leases
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.store.uris import is_local
from workers.known_jobs import output_lock


@contextmanager
def alone_on(
    output: Output, run: Run, state_dir: Path, on_wait: Callable[[str], None]
) -> Iterator[LeaseHolder]:
    """Hold the lock of an output and a lease of the run; first wait for others on this machine.

    Args:
        output: of the run.
        run: that this process runs.
        state_dir: of this machine.
        on_wait: called with the holder's process id if another process holds the lock.
    """
    with LeaseHolder(output, run) as lease:

        def waiting(holder: str) -> None:
            lease.wait()
            on_wait(holder)

        with output_lock(state_dir, output.uri, waiting):
            lease.compute()
            yield lease


class LeaseHolder:
    """Holds the lease of a run while the context is open, and renews it in a thread.

    Nothing is written before `wait` or `compute` is called.

    Args:
        output: of the run.
        run: that this process runs.

    Attributes:
        progress: how far this process has come, for those who watch; called in the thread.
    """

    def __init__(self, output: Output, run: Run) -> None:
        self._output = output
        self._run = run
        self._lease = RunLease(output, run)
        self.progress: Callable[[], Mapping[str, object]] = lambda: {}
        self._computing = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run-lease", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, StorageError):  # another minute of tries would help nobody
            self._closed.set()
        else:
            self.end(done=False)

    def wait(self) -> None:
        """This process waits for another one on the output."""
        self._begin()

    def compute(self) -> None:
        """This process computes."""
        self._computing = True
        sweep_leases(self._output, self._run)
        self._begin()

    def end(self, *, done: bool) -> None:
        """Nothing happens if it has ended before. `done`: the run has its manifest."""
        self._closed.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        if done:
            self._lease.delete()
        else:
            self._lease.write(computing=self._computing, ended=True)

    def _begin(self) -> None:
        self._lease.write(computing=self._computing)
        if not self._thread.is_alive():
            self._thread.start()

    def _renew(self) -> None:
        seconds = LOCAL_RENEW_SECONDS if is_local(self._output.uri) else RENEW_SECONDS
        while not self._closed.wait(seconds):
            progress = self.progress() if self._computing else None
            self._lease.write(computing=self._computing, progress=progress)
