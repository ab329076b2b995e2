"""Run the job of one slot: `bei-jobs submit` in a process of its own, under a claim."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from jobs.schedules.schedule import Schedule
from jobs.schedules.slots import Claim, SlotState
from jobs.summary import EXIT_DONE, EXIT_QUARANTINED
from pipeline.errors import BeiJobsError, Interrupted
from pipeline.store.uris import redact
from workers.settings import environment_without_stores

logger = logging.getLogger(__name__)

# By its path, in the same installation: see bei_jobs/__main__.py.
_MAIN = Path(__file__).parents[2] / "bei_jobs" / "__main__.py"
# Exit codes of a job that was told to stop; before it listens, the signal ends it.
_STOPPED = (Interrupted.exit_code, -signal.SIGTERM, -signal.SIGINT)


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...


#: Starts `submit` with a job file; its stdout goes into the other file.
Start = Callable[[Path, Path], Process]


def start_submit(job_file: Path, out: Path) -> Process:
    """Start `bei-jobs submit --json`, in a session of its own: a Ctrl-C reaches it through us."""
    words = ["submit", "--job-file", str(job_file), "--json", "--quiet", "--wait"]
    with out.open("wb") as stdout:
        return subprocess.Popen(
            [sys.executable, "-P", str(_MAIN), *words],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            env=environment_without_stores(),  # the job file says it
            start_new_session=True,
        )


class SlotRunner:
    """Runs slots, each in a thread that watches over its process.

    Args:
        renew_seconds: how often a claim is renewed.
        start: starts a job; None for `start_submit`.
    """

    def __init__(self, renew_seconds: float, start: Start | None = None) -> None:
        self.changed = threading.Event()  # a slot has ended, or all shall stop
        self.stopping = False
        self._renew_seconds = renew_seconds
        self._start = start or start_submit
        self._lock = threading.RLock()  # a signal may arrive while it is held
        self._processes: list[Process] = []
        self._running: list[_Running] = []

    def run(self, schedule: Schedule, slot: datetime, claim: Claim) -> None:
        """Run a slot that was claimed, in a thread."""
        thread = threading.Thread(
            target=self._run,
            args=(schedule, slot, claim),
            name=f"{schedule.name} {slot:%F %R}",
            daemon=True,  # a fault elsewhere ends the process: the claim expires
        )
        self._running = [running for running in self._running if running.thread.is_alive()]
        self._running.append(_Running(schedule, thread))
        thread.start()

    def running(self) -> list[Schedule]:
        """The schedules whose slots run, one entry per slot."""
        return [running.schedule for running in self._running if running.thread.is_alive()]

    def request_stop(self) -> None:
        """Ask the jobs to stop between two batches; a second call does not wait for the batch."""
        with self._lock:
            self.stopping = True
            for process in self._processes:
                process.terminate()
        self.changed.set()

    def join(self) -> None:
        """Wait until every slot has ended and is recorded."""
        for running in self._running:
            running.thread.join()

    def _run(self, schedule: Schedule, slot: datetime, claim: Claim) -> None:
        try:
            code, answer = self._job(schedule.job_of(slot), schedule.name, claim)
            record = claim.end(_state(code), {"exit_code": code, **answer})
            level = logging.ERROR if record["state"] == "failed" else logging.INFO
            logger.log(level, "%s", _line(schedule, slot, record))
        except BeiJobsError as error:
            # The claim expires, and the slot runs again.
            logger.error("%s %s: %s (%s)", schedule.name, slot, error, error.hint)
        except OSError as error:
            logger.error("%s %s: its job cannot be started: %s", schedule.name, slot, error)
        finally:
            self.changed.set()

    def _job(
        self, options: Mapping[str, Any], name: str, claim: Claim
    ) -> tuple[int, dict[str, Any]]:
        """Exit code and result of a slot's job."""
        with tempfile.TemporaryDirectory(prefix="bei-jobs-") as folder:
            job_file, out = Path(folder, f"{name}.toml"), Path(folder, "out.json")
            job_file.write_text(to_toml(options))
            with self._lock:
                if self.stopping:
                    return Interrupted.exit_code, {}
                process = self._start(job_file, out)
                self._processes.append(process)
            code = self._watch(process, claim)
            with self._lock:
                self._processes.remove(process)
            return code, _result(code, out)

    def _watch(self, process: Process, claim: Claim) -> int:
        while True:
            try:
                return process.wait(self._renew_seconds)
            except subprocess.TimeoutExpired:
                pass
            try:
                claim.renew()
            except BeiJobsError as error:
                logger.warning("a claim could not be renewed: %s (%s)", error, error.hint)


@dataclass(frozen=True, slots=True)
class _Running:
    schedule: Schedule
    thread: threading.Thread


def to_toml(options: Mapping[str, Any]) -> str:
    """Texts, numbers, truth values and lists of them as TOML, where they are written as in JSON."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in options.items())


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _state(code: int) -> SlotState:
    if code in (EXIT_DONE, EXIT_QUARANTINED):
        return "done"
    return "interrupted" if code in _STOPPED else "failed"


def _result(code: int, out: Path) -> dict[str, Any]:
    """The job's id and what went wrong, from the JSON object that `submit` printed."""
    try:
        answer = json.loads(out.read_text())
        result = {"job": answer.get("job"), "error": answer.get("error") or answer.get("reason")}
    except (OSError, ValueError, AttributeError):
        result = {"job": None, "error": None}
    if code < 0:
        result["error"] = f"ended by {signal.Signals(-code).name}"
    return result


def _line(schedule: Schedule, slot: datetime, record: Mapping[str, Any]) -> str:
    local = slot.astimezone(schedule.cron.zone)
    reason = f": {record['error']}" if record.get("error") else ""
    return (
        f"{schedule.name} {local:%F %R}: {record['state']}, exit code {record['exit_code']}, "
        f"{redact(record['output'])}{reason}"
    )
