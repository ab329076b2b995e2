"""Messages in the queue: which shards of which run. They hold no rows.

    {"v": 1, "job": id, "output": URI, "n": run number, "start": first shard, "count": shards}

A message is only a hint: the worker reads the run and the plan from the store, and a lost message
can be rebuilt from there.
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.output.plan import Span
from pipeline.output.run import job_id
from workers.known_jobs import is_output

RUN_SPAN = "bei.run_shard"
FINALIZE_JOB = "bei.finalize_job"

# The first queue, see `queue_of`. Two fleets on one Redis use a database each: redis://host:6379/1.
QUEUE = "bei-jobs"

# Increase when workers of this version could no longer handle the messages.
MESSAGE_VERSION = 1
_LAST_VERSION = 999

# Others can write to Redis too. A message has about 1 KB.
_MAX_BYTES = 64 * 1024
_RUNS = range(1, 10**9 + 1)
_SHARDS = range(10**12)
_SPAN_SHARDS = range(1000)  # as in `workers.span_ledger`


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
    version = kwargs.get("v", 0)
    if not _is_in(range(1, _LAST_VERSION + 1), version):
        raise ValueError("a message without a version")
    if version > MESSAGE_VERSION:
        raise NewerMessage(version)
    output = kwargs.get("output")
    numbers = {"n": _RUNS, "start": _SHARDS, "count": _SPAN_SHARDS}
    wrong = [name for name, allowed in numbers.items() if not _is_in(allowed, kwargs.get(name))]
    if not is_output(output):
        wrong.append("output")
    elif "n" not in wrong and kwargs.get("job") != job_id(output, kwargs["n"]):
        wrong.append("job")
    if wrong:
        raise ValueError(f"a message whose {', '.join(wrong)} cannot be meant")
    return Message(*(kwargs[name] for name in ("job", "output", "n", "start", "count")))


def _is_in(allowed: range, value: object) -> bool:
    return type(value) is int and value in allowed  # a bool is no number


def read_task(text: bytes) -> tuple[str, dict[str, Any]]:
    """The task in a message as it lies in the queue, and its keyword arguments, both checked.

    Format: https://docs.celeryq.dev/en/stable/internals/protocol.html in a kombu envelope.
    Arguments of a newer version are returned as they are.

    Raises:
        ValueError: it was not sent by bei-jobs.
    """
    if len(text) > _MAX_BYTES:
        raise ValueError(f"a message of {len(text):,} bytes")
    try:
        envelope = json.loads(text)
        task = envelope["headers"]["task"]
        body = b64decode(envelope["body"], validate=True)
        _, kwargs, _ = json.loads(body)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("a message that holds no task") from None
    if task not in (RUN_SPAN, FINALIZE_JOB):
        raise ValueError("a message with an unknown task")
    if not isinstance(kwargs, dict) or b'"__type__"' in body:  # kombu would make an object of it
        raise ValueError("a message without plain keyword arguments")
    try:
        return task, read_message(kwargs).to_kwargs()
    except NewerMessage:
        return task, kwargs


def queue_of(numerics: int, version: int = MESSAGE_VERSION) -> str:
    """The queue of the runs that were planned by workers of a `NUMERICS_VERSION`.

    Only workers of that version compute what such a run promises, so no other is offered it.
    Messages of a newer `version` wait where older workers do not look.
    """
    of_run = QUEUE if numerics == 1 else f"{QUEUE}.n{numerics}"
    return of_run if version == 1 else f"{of_run}.v{version}"
