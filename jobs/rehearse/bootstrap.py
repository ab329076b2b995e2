"""How far a mean may be from what other queries would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.rehearse.sample import SEED

_RESAMPLES, _AT_ONCE = 2000, 200


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, and its 95 % interval by the bootstrap's percentiles."""

    mean: float
    low: float
    high: float


def bootstrapped(values: npt.NDArray[np.float64]) -> Mean:
    """The mean of values, [Q], and its interval: the same each time."""
    rng = np.random.default_rng(SEED)
    size = len(values)
    drawn = (rng.integers(0, size, (_AT_ONCE, size)) for _ in range(_RESAMPLES // _AT_ONCE))
    means = np.concatenate([values[each].mean(axis=1) for each in drawn])
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(float(values.mean()), float(low), float(high))
