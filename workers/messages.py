"""Messages in the queue: which shards of which run. They hold no rows.

    {"v": 1, "job": id, "output": URI, "n": run number, "start": first shard, "count": shards}

A message is only a hint: the worker reads the run and the plan from the store, and a lost message
can be rebuilt from there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.output.plan import Span

RUN_SPAN = "bei.run_shard"
FINALIZE_JOB = "bei.finalize_job"

# The only queue. Two fleets on one Redis use a database each: redis://host:6379/1.
QUEUE = "bei-jobs"

# Increase when workers of this version could no longer handle the messages.
MESSAGE_VERSION = 1

_FIELDS = {"job": str, "output": str, "n": int, "start": int, "count": int}


class NewerMessage(Exception):
    """The message was sent by a newer version of bei-jobs, whose messages we cannot read."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"a message of version {version}, while this worker reads version {MESSAGE_VERSION}"
        )
        self.version = version


@dataclass(frozen=True, slots=True)
class Message:
    """One span of a run; for FINALIZE_JOB an empty span."""

    job: str
    output: str
    n: int
    start: int = 0
    count: int = 0

    @property
    def span(self) -> Span:
        return Span(self.start, self.count)

    def to_kwargs(self) -> dict[str, Any]:
        """The task's keyword arguments."""
        return {"v": MESSAGE_VERSION, **asdict(self)}


def read_message(kwargs: dict[str, Any]) -> Message:
    """Parse the keyword arguments of a task.

    Raises:
        NewerMessage: a newer version of bei-jobs sent it.
        ValueError: it is not a message of bei-jobs.
    """
    version = kwargs.get("v")
    if not isinstance(version, int):
        raise ValueError(f"a message without a version: {sorted(kwargs)}")
    if version > MESSAGE_VERSION:
        raise NewerMessage(version)
    fields = {name: kwargs.get(name) for name in _FIELDS}
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(fields[name], kind)]
    if wrong:
        raise ValueError(f"a message whose {', '.join(wrong)} is missing or has a wrong type")
    return Message(**fields)  # type: ignore[arg-type]


def queue_of(version: int) -> str:
    """The queue of a message version: newer messages wait where older workers do not look."""
    return QUEUE if version == 1 else f"{QUEUE}.v{version}"
