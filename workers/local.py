"""The same shards with no broker: local, in this process, or one process per device."""

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
    on_choices: Callable[[Choices], None] = lambda choices: None  # of each engine that is loaded
    card: ModelCard | None = None  # of the model, where it was just read


def compute_missing(output: Output, run: Run, plan: Plan, local: LocalRun) -> Iterator[ShardResult]:
    """Compute the shards that are not committed, and say how each ended.

    A shard whose failure may pass is tried again after the others, up to MAX_ATTEMPTS times; a
    shard is reported once, with its last outcome. Stopping leaves what is committed in place.
    """
    missing = plan.missing(output.committed())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        again: list[ShardResult] = []
        for result in _run_once(output, run, plan, missing, local):
            if result.error:
                output.record_failure(run, result, uuid.uuid4().hex[:8])
            if result.error and result.transient and attempt < MAX_ATTEMPTS:
                again.append(result)
            else:
                yield result
        parts = {result.part for result in again}
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
    """One process per device, each taking the next span when it has done its last.

    Processes are spawned, never forked: CUDA does not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    spans: Any = context.Queue()
    events: Any = context.Queue()
    stop = context.Event()
    for span in [*plan.spans(missing), *(None for _ in local.devices)]:
        spans.put(span)  # a None per process says that there is no more
    processes = [
        _spawn(context, (output.uri, run.n, device, local.cache_dir, spans, events, stop))
        for device in local.devices
    ]
    try:
        yield from _follow(processes, events, stop, local)
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=30)
            process.kill()
        spans.cancel_join_thread()


def _spawn(context: SpawnContext, args: tuple[Any, ...]) -> SpawnProcess:
    process = context.Process(target=_serve, args=args, name=f"bei-jobs {args[2]}")
    process.start()
    return process


def _follow(
    processes: list[SpawnProcess], events: Any, stop: Any, local: LocalRun
) -> Iterator[ShardResult]:
    """Pass on what the processes say until each has ended.

    Raises:
        EncodeError: a process died without a word.
        BeiJobsError: what a process could not go on after.
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
                    f"the process of {dead[0].name} died with exit code {dead[0].exitcode}",
                    hint="committed parts are kept: run the same command again; if it happens "
                    "again, lower --token-budget",
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


def _serve(
    uri: str, n: int, device: str, cache_dir: Path | None, spans: Any, events: Any, stop: Any
) -> None:
    """The body of a device's process: spans in, results out."""
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
