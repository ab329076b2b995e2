"""Batch invariance: a row's values alone, in another order and at another token budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.agreement import TOLERANCE, distance
from pipeline.check.sample import Sample, compute
from pipeline.encoder.engine import Engine
from pipeline.output.certificate import Proof
from pipeline.packing import Int64Array, pack
from pipeline.tasks.base import Float32Array

_SEED = 0
_OTHER_BUDGET = 3  # the budget is divided by it


def prove_invariance(
    engine: Engine, sample: Sample, outputs: Float32Array, rows: int, budget: int
) -> Proof:
    """Compare values that were computed in a job's batches with those of other batches.

    Args:
        engine: what computed them.
        sample: tokenized rows.
        outputs: of all sequences in a job's batches.
        rows: the first ones are computed again.
        budget: the job's tokens per batch.
    """
    count = sample.sequences_of(rows)
    end = int(sample.tokens.offsets[count]) if sample.task.per_token else count
    lengths = sample.tokens.lengths[:count]
    shuffled = np.random.default_rng(_SEED).permutation(count)
    ways = {
        "alone": [np.array([one]) for one in range(count)],
        "order": list(_in_order(lengths, shuffled, budget)),
        "budget": pack(lengths, max(1, budget // _OTHER_BUDGET)),
    }
    company, logits = outputs[:end], sample.card.head != "embedding"
    measured, apart = {}, 0.0
    for way, batches in ways.items():
        again = compute(engine, sample, batches)[:end]
        measured[way] = float(np.nan_to_num(np.abs(again - company)).max(initial=0.0))
        apart = max(apart, distance(again, company, logits=logits))
    passed = apart <= TOLERANCE[engine.precision]
    note = "" if passed else f"a row's values depend on its neighbours: {apart:.1e} apart"
    return Proof(f"batch invariance in {engine.precision}", passed, rows, measured, note)


def _in_order(lengths: Int64Array, order: Int64Array, budget: int) -> Iterator[Int64Array]:
    """Batches of neighbours in an order, whatever their lengths."""
    batch: list[int] = []
    used = 0
    for sequence in order.tolist():
        if batch and used + int(lengths[sequence]) > budget:
            yield np.array(batch)
            batch, used = [], 0
        batch.append(sequence)
        used += int(lengths[sequence])
    if batch:
        yield np.array(batch)
