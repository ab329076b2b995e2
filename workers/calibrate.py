"""How fast a device of this machine is: a few seconds of a job's own rows, through its own stages.

In this process, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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

# How long it is measured, and before that the device warms up.
SECONDS = 5.0
WARM_UP_SECONDS = 1.0
# Rows of a sample, and of a block at most, as in a run.
SAMPLE_ROWS = 16_384
# Batches of the first block, and of the last ones: enough that few of them are not full. They
# double, so that a slow device is done in time too.
_FIRST_BATCHES, _MOST_BATCHES = 1, 8
_BLOCKS_AHEAD = 2
_MEAN_ROWS = 256
_SEED = 0


def calibrate(
    spec: JobSpec, card: ModelCard, device: str, rows: pa.RecordBatch, cache_dir: Path
) -> tuple[Rate | None, Choices]:
    """Load the model and compute sample rows again and again.

    Args:
        spec: of the job.
        card: of its model.
        device: such as "cpu" or "cuda:0".
        rows: what the task reads.
        cache_dir: of downloaded checkpoints.

    Returns:
        The rate, None if no row has a token; and what the engine chose.

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
            if ends[-1][0] - loaded > WARM_UP_SECONDS + SECONDS:
                break
    if not ends:
        return None, engine.choices
    return Rate(_speed(ends, loaded), loaded - started, "calibration"), engine.choices


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
