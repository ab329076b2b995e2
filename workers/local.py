"""Run shards without a broker: each device of this machine in a process of its own."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import BeiJobsError
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.plan import Plan, Span
from pipeline.output.run import Run
from pipeline.shards import ShardResult
from pipeline.spec import OnBatch
from workers.open_devices import LocalDevice
from workers.shard_runner import Calls, ShardRunner

logger = logging.getLogger(__name__)

# How often a device that waits for spans looks whether it should stop.
_TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LocalRun:
    """How a job runs on this machine."""

    devices: tuple[LocalDevice, ...]
    should_stop: Callable[[], bool]
    on_batch: OnBatch
    on_choices: Callable[[Choices], None] = lambda choices: None  # for each loaded engine
    on_warning: Callable[[str], None] = logger.warning
    card: ModelCard | None = None  # of the model, if it was just read


def compute_missing(output: Output, run: Run, plan: Plan, local: LocalRun) -> Iterator[ShardResult]:
    """Compute the shards that are not committed, and yield the result of each.

    A shard that failed transiently is tried again after the others, up to MAX_ATTEMPTS times; each
    shard is reported once, with its last result. What is computed is kept when the run is stopped.
    """
    missing = plan.missing(output.committed())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        retryable: list[ShardResult] = []
        with closing(_run_once(output, run, plan, missing, local)) as results:
            for result in results:
                if result.error:
                    output.record_failure(run, result, uuid.uuid4().hex[:8])
                if result.error and result.transient and attempt < MAX_ATTEMPTS:
                    retryable.append(result)
                else:
                    yield result
        parts = {result.part for result in retryable}
        missing = [i for i in missing if plan.table["part"][i].as_py() in parts]
        if not missing or local.should_stop():
            return


def _run_once(
    output: Output, run: Run, plan: Plan, missing: Sequence[int], local: LocalRun
) -> Generator[ShardResult, None, None]:
    calls = Calls(local.should_stop, local.on_batch, local.on_choices, local.on_warning)
    if len(local.devices) > 1 and missing:
        yield from _on_devices(output, run, plan, missing, local, calls)
    elif missing:
        runner = ShardRunner(local.devices[0], output, run, plan, calls, local.card)
        yield from runner.compute(missing)


class _Shared:
    """What the threads of a run's devices share: spans to compute, and what came of them."""

    def __init__(self, spans: Iterable[Span], calls: Calls) -> None:
        self._spans = deque(spans)
        self._held = 0  # spans that a device computes, and may still give back
        self._changed = threading.Condition()
        self.events: queue.SimpleQueue[ShardResult | BaseException | None] = queue.SimpleQueue()
        self.abandoned = threading.Event()
        self._calls = calls
        self._lock = threading.Lock()

    def take(self) -> Span | None:
        """The next span; waits while others may give theirs back. None: there is nothing to do."""
        with self._changed:
            while not self.should_stop():
                if self._spans:
                    self._held += 1
                    return self._spans.popleft()
                if not self._held:
                    return None
                self._changed.wait(_TICK_SECONDS)
        return None

    def put_down(self, span: Span, *, computed: bool) -> None:
        """A device no longer holds a span; one that is not computed is for another device."""
        with self._changed:
            self._held -= 1
            if not computed:
                self._spans.append(span)
            self._changed.notify_all()

    def calls(self) -> Calls:
        """The caller's, for several threads."""
        return Calls(self.should_stop, self._on_batch, self._on_choices, self._on_warning)

    def should_stop(self) -> bool:
        """Whether no device should begin another batch."""
        return self.abandoned.is_set() or self._calls.should_stop()

    def _on_batch(self, rows: int, tokens: int) -> None:
        with self._lock:
            self._calls.on_batch(rows, tokens)

    def _on_choices(self, choices: Choices) -> None:
        with self._lock:
            self._calls.on_choices(choices)

    def _on_warning(self, line: str) -> None:
        with self._lock:
            self._calls.on_warning(line)


def _on_devices(
    output: Output,
    run: Run,
    plan: Plan,
    missing: Sequence[int],
    local: LocalRun,
    calls: Calls,
) -> Iterator[ShardResult]:
    """Each device takes the next span when it has finished one. One that fails gives its span back.

    Raises:
        BeiJobsError: of the last device that failed, when none is left.
    """
    shared = _Shared(plan.spans(missing), calls)
    threads = []
    for device in local.devices:
        runner = ShardRunner(device, output, run, plan, shared.calls(), local.card)
        threads.append(threading.Thread(target=_serve, args=(runner, shared), daemon=True))
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(shared.abandoned.set)
        try:
            yield from _relay(shared.events, len(threads))
        except BaseException:  # such as a second Ctrl-C: do not wait for running batches
            for device in local.devices:
                device.kill()
            raise


def _serve(runner: ShardRunner, shared: _Shared) -> None:
    """Compute spans until there is nothing to do; the last event is None, or why it failed."""
    end: BaseException | None = None
    try:
        while (span := shared.take()) is not None:
            computed = False
            try:
                for result in runner.compute(range(span.start, span.start + span.count)):
                    shared.events.put(result)
                computed = True
            finally:
                shared.put_down(span, computed=computed)
    except BaseException as error:
        end = error
    shared.events.put(end)


def _relay(
    events: queue.SimpleQueue[ShardResult | BaseException | None], running: int
) -> Iterator[ShardResult]:
    """The results of all devices, until each has ended."""
    errors: list[BaseException] = []
    devices = running
    while running:
        try:
            event = events.get(timeout=1.0)  # a signal is handled between two waits
        except queue.Empty:
            continue
        if isinstance(event, ShardResult):
            yield event
            continue
        running -= 1
        if isinstance(event, BaseException):
            errors.append(event)
            if not isinstance(event, BeiJobsError) or len(errors) == devices:
                raise event
            logger.error("a device leaves its shards to the others: %s (%s)", event, event.hint)
