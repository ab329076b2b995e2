"""How far a precision deviates from float32 on a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.tasks.base import Float32Array

# Percentiles by name: the smallest cosines and the largest differences matter.
_COSINES = {"min": 0, "p1": 1, "p10": 10, "median": 50}
_DIFFERENCES = {"median": 50, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class PrecisionComparison:
    """How far a precision deviates from float32 on a sample of vectors or logits."""

    precision: str
    device: str
    rows: int
    tokens: int
    width: int  # values per output
    cosine: dict[str, float]  # of vectors or rows of logits; empty if these have one value each
    difference: dict[str, float]  # absolute, over all values
    largest_difference: float  # between any two values
    not_finite: int  # outputs that are not finite, even after the repair in float32


def compare_precision(
    outputs: Float32Array, exact: Float32Array, *, precision: str, device: str, tokens: int
) -> PrecisionComparison:
    """Compare what one precision computed with float32.

    Args:
        outputs: in the precision, [N, width].
        exact: the same in float32.
        precision: in words.
        device: in words.
        tokens: of the sample.
    """
    finite = np.isfinite(outputs).all(axis=1)
    difference = np.abs(outputs - exact)[finite]
    cosines = row_cosines(outputs[finite], exact[finite])
    return PrecisionComparison(
        precision=precision,
        device=device,
        rows=len(outputs),
        tokens=tokens,
        width=outputs.shape[1],
        cosine={
            name: float(np.percentile(cosines, point))
            for name, point in _COSINES.items()
            if len(cosines) and outputs.shape[1] > 1
        },
        difference={
            name: float(np.percentile(difference, point)) if difference.size else 0.0
            for name, point in _DIFFERENCES.items()
        },
        largest_difference=float(difference.max(initial=0.0)),
        not_finite=int((~finite).sum()),
    )


def row_cosines(values: Float32Array, exact: Float32Array) -> np.ndarray:
    """The cosine between each row and its exact value, [N]; 1 where one of them is zero."""
    a, b = values.astype(np.float64), exact.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: np.ndarray = np.divide(
        (a * b).sum(axis=1), norms, out=np.ones(len(a)), where=norms > 0
    )
    return cosines
