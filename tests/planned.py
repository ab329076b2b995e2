"""A planned job, and the types of the fixtures that make one for the workers' tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.output.output import Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from workers.celery_tasks import MessageHandler
from workers.messages import Message

ROWS = 10  # of a shard


@dataclass
class Job:
    """A started run, with shards of ROWS rows."""

    output: Output
    run: Run
    plan: Plan

    @property
    def committed(self) -> list[int]:
        missing = self.plan.missing(self.output.committed())
        return [i for i in range(len(self.plan)) if i not in missing]

    def message(self, start: int = 0, count: int = 1) -> Message:
        return Message(self.run.job, self.run.output, self.run.n, start, count)


MakeJob: TypeAlias = Callable[..., Job]
MakeHandler: TypeAlias = Callable[..., MessageHandler]
Queued: TypeAlias = Callable[[], list[Span]]
