"""What travels through the queue: which shards of which run. Never rows, never a path to write to.

    {"v": 1, "job": id, "output": URI, "n": run number, "start": first shard, "count": shards}

A message is a hint: its worker reads the run and the plan from the store, and everything that a
lost message would have said can be worked out there again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.output.plan import Span

RUN_SHARD = "bei.run_shard"
FINALIZE_JOB = "bei.finalize_job"

#: The one queue. Two fleets on one Redis take a database each: redis://host:6379/1.
QUEUE = "bei-jobs"

#: Raise when a worker of this version could not carry out what a message asks for.
MESSAGE_VERSION = 1

_FIELDS = {"job": str, "output": str, "n": int, "start": int, "count": int}


class NewerMessage(Exception):
    """The message was sent by a version of bei-jobs whose messages we cannot read."""

    def __init__(self, version: int) -> None:
        super().__init__(f"message of version {version}, this worker reads {MESSAGE_VERSION}")
        self.version = version


@dataclass(frozen=True, slots=True)
class Message:
    """One span of a run; for FINALIZE_JOB a span of no shards."""

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
    """Rebuild a message.

    Raises:
        NewerMessage: a newer version of bei-jobs sent it.
        ValueError: it is no message of ours.
    """
    version = kwargs.get("v")
    if not isinstance(version, int):
        raise ValueError(f"a message without a version: {sorted(kwargs)}")
    if version > MESSAGE_VERSION:
        raise NewerMessage(version)
    own = {name: kwargs.get(name) for name in _FIELDS}
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(own[name], kind)]
    if wrong:
        raise ValueError(f"a message whose {', '.join(wrong)} is missing or of a wrong type")
    return Message(**own)  # type: ignore[arg-type]


def queue_of(version: int) -> str:
    """The queue of a message version: newer ones wait apart, where older workers do not look."""
    return QUEUE if version == 1 else f"{QUEUE}.v{version}"
