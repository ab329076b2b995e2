"""How fast a device of this machine is: a few seconds of a job's own rows, through its own stages.

In this process, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.blocks import Block
from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.known_rows import RowResults
from pipeline.prefetch import prefetch
from pipeline.row_keys import row_keys
from pipeline.spec import JobSpec
from pipeline.tasks import Task, make_task
from workers.engine_cache import EngineCache
from workers.rates import Rate

# How long it is measured at most, and before that the device warms up.
SECONDS = 5.0
WARM_UP_SECONDS = 1.0
# Sooner where so many blocks in a row, which took this long together, had the same pace.
_LIKE_BLOCKS, _LIKE_SECONDS, _LIKE_PACE = 3, 1.0, 1.03
# Rows of a sample, and of a block at most, as in a run.
SAMPLE_ROWS = 16_384
# Batches of the first block, and of the last ones: enough that few of them are not full. They
# double, so that a slow device is done in time too.
_FIRST_BATCHES, _MOST_BATCHES = 1, 8
_BLOCKS_AHEAD = 2
_MEAN_ROWS = 256
_SEED = 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a device was measured to do."""

    rate: Rate | None  # None if no row has a token
    choices: Choices  # of the engine
    steady: bool  # whether it kept one pace, as it does on a machine that is not busy otherwise


def calibrate(
    spec: JobSpec, card: ModelCard, device: str, rows: pa.RecordBatch, cache_dir: Path
) -> Calibration:
    """Load the model and compute sample rows again and again.

    Args:
        spec: of the job.
        card: of its model.
        device: such as "cpu" or "cuda:0".
        rows: what the task reads.
        cache_dir: of downloaded checkpoints.

    Raises:
        CheckpointError: the model cannot be loaded.
        EncodeError: the device cannot compute.
    """
    started = time.monotonic()
    from pipeline.encode import encode  # torch, which takes seconds

    engine = EngineCache(cache_dir).get(spec, device, card)
    task = make_task(spec, card, load_tokenizer(card))
    budget = spec.token_budget or engine.token_budget
    loaded = time.monotonic()
    ends: list[tuple[float, int]] = []  # when each block was done, and its tokens
    with prefetch(_blocks(spec, task, rows, budget), _BLOCKS_AHEAD) as ahead:
        for one in encode(engine, ahead, task, budget, lambda: False, lambda rows, tokens: None):
            ends.append((time.monotonic(), int(one.block.tokens.ids.shape[0])))
            if ends[-1][0] - loaded > WARM_UP_SECONDS + SECONDS or _steady(ends, loaded):
                break
    if not ends:
        return Calibration(None, engine.choices, steady=False)
    rate = Rate(_speed(ends, loaded), loaded - started, "calibration")
    return Calibration(rate, engine.choices, _steady(ends, loaded))


def _blocks(spec: JobSpec, task: Task, rows: pa.RecordBatch, budget: int) -> Iterator[Block]:
    """Blocks of sample rows, without end; none if the rows have no tokens."""
    rows = rows.take(pa.array(np.random.default_rng(_SEED).permutation(rows.num_rows)))
    some = rows.slice(0, _MEAN_ROWS)
    mean = int(task.tokenize(some).ids.shape[0]) / max(1, some.num_rows)
    batches, first = _FIRST_BATCHES, 0
    while mean:
        size = min(SAMPLE_ROWS, max(1, int(batches * budget / mean)))
        chosen = rows.take(pa.array(np.arange(first, first + size) % rows.num_rows))
        keys = row_keys(chosen, task.columns_read(spec))
        yield Block((), chosen, chosen, task.tokenize(chosen), RowResults.all_computed(keys))
        batches, first = min(2 * batches, _MOST_BATCHES), first + size


def _steady(ends: list[tuple[float, int]], loaded: float) -> bool:
    """Whether the last blocks, all after the warm-up, had the same pace; arguments as `_speed`."""
    last = ends[-_LIKE_BLOCKS - 1 :]
    begun = last[0][0]
    if len(last) <= _LIKE_BLOCKS or begun - loaded <= WARM_UP_SECONDS:
        return False
    paces = [tokens / (end - before) for (before, _), (end, tokens) in pairwise(last)]
    return last[-1][0] - begun >= _LIKE_SECONDS and max(paces) < _LIKE_PACE * min(paces)


def _speed(ends: list[tuple[float, int]], loaded: float) -> float:
    """Tokens per second from the end of the first block after the warm-up on.

    Args:
        ends: when each block was done, and its tokens.
        loaded: when the first one began.
    """
    warm = next(i for i, (end, _) in enumerate(ends) if i + 1 == len(ends) or
                end - loaded > WARM_UP_SECONDS)  # fmt: skip
    begun = ends[warm][0]
    if warm + 1 == len(ends):  # a slow device
        begun, warm = loaded, -1
    return sum(tokens for _, tokens in ends[warm + 1 :]) / (ends[-1][0] - begun)
