"""What a device's process does: it computes the orders of its parent, and says what it does.

Events, in the order in which they are sent:

    ("loaded", Choices)                   the model is on the device, and computes the run's canary
    ("begin", (key, Places))              something is done to these rows from now on …
    ("end", key)                          … until now
    ("batch", (rows, tokens))             a batch was computed
    ("warning", str)                      a line for the user: something is done in another way
    ("result", ShardResult)               a shard has ended
    ("usage", Usage)                      what the process used, from time to time
    ("over", None | BeiJobsError | str)   the order is over; a str is an exception that names no row

They are written before anything happens to the rows, so that a parent knows what was in flight when
the pipe closes.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import BeiJobsError, CanaryDiffers
from pipeline.output.kept_precision import keep_precision, kept_precision
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.row_ranges import Places
from pipeline.output.run import Run
from pipeline.output.suspects import ShardWork
from pipeline.stage_times import stage_times
from workers.engine_cache import EngineCache
from workers.logs import set_context
from workers.settings import Tokenizing
from workers.usage import UsageMeter

if TYPE_CHECKING:
    from pipeline.encoder.engine import Engine
    from pipeline.known_rows import Duplicates
    from pipeline.proven_tokens import ProvenTokens
    from pipeline.tasks import Task

logger = logging.getLogger(__name__)

Event = tuple[str, Any]

# Of this process, as what it reads is.
_meter = UsageMeter()


@dataclass(frozen=True, slots=True)
class Order:
    """Shards of a run to compute."""

    output: str
    n: int
    indexes: Sequence[int]  # in the plan
    works: dict[str, ShardWork] = field(default_factory=dict)  # by shard id, where not plain
    attempt: str = ""
    card: ModelCard | None = None  # of the model, if the parent has just read it


class Jobs:
    """The run and the plan of the job at hand, and results that its next rows may share."""

    def __init__(self, tokenizing: Tokenizing | None = None) -> None:
        self._tokenizing = tokenizing
        self._proven: tuple[Run, ProvenTokens] | None = None
        self._key: object = None
        self._job: tuple[Run, Plan, Duplicates] | None = None
        self._task: tuple[Run, ModelCard, Task] | None = None
        self._kept: tuple[Run, Choice[str]] | None = None  # of the last run with --precision auto
        self._sung: weakref.WeakKeyDictionary[Engine, list[Run]] = weakref.WeakKeyDictionary()

    def open(self, output: Output, n: int) -> tuple[Run, Plan, Duplicates]:
        """The run with number `n`, its plan, and the results that are held for duplicates."""
        from pipeline.known_rows import Duplicates

        # The run is read each time: after an output is deleted, a new submit gets the same numbers.
        run = output.run(n)
        if self._job is None or self._key != output.uri or self._job[0] != run:
            self._key, self._job = output.uri, (run, output.plan(run), Duplicates())
        return self._job

    def engine(
        self, output: Output, run: Run, device: str, engines: EngineCache, card: ModelCard | None
    ) -> tuple[Engine, Choices]:
        """The engine of a run, in the precision that its output keeps, and what was chosen."""
        if run.spec.precision != "auto":
            engine = engines.get(run.spec, device, card)
            return engine, engine.choices
        if self._kept is None or self._kept[0] != run:
            self._kept = run, self._keep(output, run, device, engines, card)
        kept = self._kept[1]
        engine = engines.get(run.spec.computed_in(kept.value), device, card)
        return engine, {**engine.choices, "precision": kept}

    def _keep(
        self, output: Output, run: Run, device: str, engines: EngineCache, card: ModelCard | None
    ) -> Choice[str]:
        kept = kept_precision(output, run.reuse_from)
        if kept is None:
            kept = engines.get(run.spec, device, card).chosen_precision
        return keep_precision(output, run, kept)

    def task(self, run: Run, engine: Engine) -> Task:
        """The task of a run: the same for each order, since it remembers words."""
        from pipeline.encoder.tokenizer import load_tokenizer
        from pipeline.tasks import make_task

        card = engine.card
        if self._task is None or self._task[0] != run or self._task[1] is not card:
            self._task = run, card, make_task(run.spec, card, load_tokenizer(card))
        return self._task[2]

    def forget_task(self) -> None:
        """The next order begins with a tokenizer that nothing has happened to."""
        self._task = None

    def proven(self, run: Run, engine: Engine, warn: Callable[[str], None]) -> ProvenTokens | None:
        """What tokenizes the rows of a run in processes; None where the task itself does."""
        from pipeline.proven_tokens import ProvenTokens
        from pipeline.tokenize.processes import TokenizerProcesses

        if self._tokenizing is None:
            return None
        if self._proven is not None and self._proven[0] == run:
            self._proven[1].warn = warn
            return self._proven[1]
        if self._proven is not None:
            self._proven[1].close()
        count = self._tokenizing.count(engine.device)
        processes = TokenizerProcesses(count, self._tokenizing.library)
        opened = ProvenTokens.open(run.spec, engine.card, processes, warn)
        self._proven = run, opened
        logger.info("%s: %s", opened.choice.value, opened.choice.reason)
        return opened

    def check_canary(self, output: Output, run: Run, engine: Engine, task: Task) -> None:
        """Once for each run and loaded engine.

        Raises:
            CanaryDiffers: the engine computes other values than the first one of the run.
        """
        from pipeline.canary import check_canary

        agreed = self._sung.setdefault(engine, [])
        if run not in agreed:
            check_canary(output, run, engine, task)
            agreed.append(run)


class _Sender:
    """Sends the events of one order; from several threads."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self.engine: Engine | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._send(event)

    def begin(self, key: str, places: Places) -> None:
        self(("begin", (key, places)))

    def end(self, key: str) -> None:
        self(("end", key))

    def batch(self, rows: int, tokens: int) -> None:
        self(("batch", (rows, tokens)))
        if _meter.due():
            self.usage()

    def warn(self, line: str) -> None:
        self(("warning", line))

    def usage(self) -> None:
        if self.engine is not None:
            self(("usage", _meter.read(self.engine)))


def execute(
    order: Order,
    device: str,
    engines: EngineCache,
    send: Callable[[Event], None],
    should_stop: Callable[[], bool],
    jobs: Jobs,
) -> None:
    """Run an order and send its events. Never raises."""
    outcome: BeiJobsError | str | None = None
    sender = _Sender(send)
    stage_times.abandon()  # what an error left
    try:
        from pipeline.run import run_shards

        output = Output(order.output)
        run, plan, duplicates = jobs.open(output, order.n)
        set_context(job=run.job)
        engine, choices = jobs.engine(output, run, device, engines, order.card)
        sender.engine = engine
        task = jobs.task(run, engine)
        try:
            jobs.check_canary(output, run, engine, task)
        except CanaryDiffers:
            engines.drop(engine)
            raise
        proven = jobs.proven(run, engine, sender.warn)
        sender(("loaded", choices if proven is None else {**choices, "token-ids": proven.choice}))
        for result in run_shards(
            run,
            list(plan.shards(order.indexes)),
            engine,
            output,
            attempt=order.attempt,
            should_stop=should_stop,
            on_batch=sender.batch,
            works=order.works,
            watch=sender,
            duplicates=duplicates,
            task=task,
            proven=proven,
        ):
            sender(("result", result))
            sender.usage()
        sender.usage()
    except BeiJobsError as error:
        outcome = error
    except Exception as error:  # of a row, of a library, or of this program
        logger.debug("%s", order.output, exc_info=error)
        jobs.forget_task()
        outcome = f"{type(error).__name__}: {error}"
    sender(("over", outcome))
