"""Run shards without a broker: in this process, or in one process per device."""

from __future__ import annotations

import multiprocessing
import queue
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import BeiJobsError, EncodeError
from pipeline.output.output import MAX_ATTEMPTS, Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import OnBatch, ShardResult
from workers.engine_cache import EngineCache


@dataclass(frozen=True, slots=True)
class LocalRun:
    """How a job runs on this machine."""

    devices: tuple[str, ...]
    cache_dir: Path | None
    should_stop: Callable[[], bool]
    on_batch: OnBatch
    on_choices: Callable[[Choices], None] = lambda choices: None  # for each loaded engine
    card: ModelCard | None = None  # of the model, if it was just read


def compute_missing(output: Output, run: Run, plan: Plan, local: LocalRun) -> Iterator[ShardResult]:
    """Compute the shards that are not committed, and yield the result of each.

    A shard that failed transiently is tried again after the others, up to MAX_ATTEMPTS times; each
    shard is reported once, with its last result. Committed parts are kept when the run is stopped.
    """
    missing = plan.missing(output.committed())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        retryable: list[ShardResult] = []
        for result in _run_once(output, run, plan, missing, local):
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
) -> Iterator[ShardResult]:
    if not missing:
        return
    if len(local.devices) > 1 and len(missing) > 1:
        yield from _on_devices(output, run, plan, missing, local)
    else:
        yield from _in_process(output, run, plan, missing, local)


def _in_process(
    output: Output, run: Run, plan: Plan, missing: Sequence[int], local: LocalRun
) -> Iterator[ShardResult]:
    from pipeline.run import run_shards

    cards = () if local.card is None else (local.card,)
    engine = EngineCache(local.cache_dir, cards).get(run.spec, local.devices[0])
    local.on_choices(engine.choices)
    yield from run_shards(
        run,
        list(plan.shards(missing)),
        engine,
        output,
        attempt=uuid.uuid4().hex,
        should_stop=local.should_stop,
        on_batch=local.on_batch,
    )


def _on_devices(
    output: Output, run: Run, plan: Plan, missing: Sequence[int], local: LocalRun
) -> Iterator[ShardResult]:
    """Run one process per device; each takes the next span when it has finished one.

    Processes are spawned, never forked: CUDA does not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    spans: Any = context.Queue()
    events: Any = context.Queue()
    stop = context.Event()
    for span in [*plan.spans(missing), *(None for _ in local.devices)]:
        spans.put(span)  # one None per process marks the end
    processes = [
        _spawn(context, (output.uri, run.n, device, local.cache_dir, spans, events, stop))
        for device in local.devices
    ]
    try:
        yield from _relay(processes, events, stop, local)
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=30)
            process.kill()
        spans.cancel_join_thread()


def _spawn(context: SpawnContext, args: tuple[Any, ...]) -> SpawnProcess:
    process = context.Process(target=_run_device, args=args, name=f"bei-jobs {args[2]}")
    process.start()
    return process


def _relay(
    processes: list[SpawnProcess], events: Any, stop: Any, local: LocalRun
) -> Iterator[ShardResult]:
    """Relay the events of the processes until each has ended.

    Raises:
        EncodeError: a process died.
        BeiJobsError: the error that ended a process.
    """
    running = len(processes)
    while running:
        if local.should_stop():
            stop.set()
        try:
            kind, value = events.get(timeout=0.5)
        except queue.Empty:
            dead = [p for p in processes if p.exitcode not in (None, 0)]
            if dead:
                raise EncodeError(
                    f"the process {dead[0].name} died with exit code {dead[0].exitcode}",
                    hint="run the same command again to resume; if a process dies again, lower "
                    "--token-budget",
                ) from None
            continue
        if kind == "batch":
            local.on_batch(*value)
        elif kind == "choices":
            local.on_choices(value)
        elif kind == "result":
            yield value
        elif kind == "error":
            raise value
        else:
            running -= 1


def _run_device(
    uri: str, n: int, device: str, cache_dir: Path | None, spans: Any, events: Any, stop: Any
) -> None:
    """The main function of a device's process: takes spans, sends results."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sets `stop`
    from pipeline.run import run_shards

    try:
        output = Output(uri)
        run = output.run(n)
        plan = output.plan(run)
        engine = EngineCache(cache_dir).get(run.spec, device)
        events.put(("choices", engine.choices))
        while (span := spans.get()) is not None and not stop.is_set():
            shards = list(plan.shards(range(span.start, span.start + span.count)))
            for result in run_shards(
                run,
                shards,
                engine,
                output,
                attempt=uuid.uuid4().hex,
                should_stop=stop.is_set,
                on_batch=lambda rows, tokens: events.put(("batch", (rows, tokens))),
            ):
                events.put(("result", result))
    except BeiJobsError as error:
        events.put(("error", error))
    events.put(("end", None))
