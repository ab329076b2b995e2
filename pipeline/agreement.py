"""Whether two computations of the same values agree, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

# The largest `distance` of two sound computations in one precision, whatever the chip, the number
# of threads, the kernel or the batch. docs/design.md has what was measured; a damaged weight is
# beyond it. In words of cosines: 1 - distance² / 2.
TOLERANCE: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-3, "float16": 3e-2, "bfloat16": 0.15, "int8": 0.3}
)


def distance(values: Float32Array, reference: Float32Array, *, logits: bool) -> float:
    """The largest distance between two rows, in units of the reference's typical length.

    Args:
        values: [N, width].
        reference: [N, width], the same rows.
        logits: whether these are logits, which may all be small: then the unit is at least 1.

    Returns:
        0 for equal rows; infinity where one is finite and the other is not, or the shapes differ.
    """
    if values.shape != reference.shape:
        return float("inf")
    finite = np.isfinite(values).all(axis=1)
    if not np.array_equal(finite, np.isfinite(reference).all(axis=1)):
        return float("inf")
    a, b = values[finite].astype(np.float64), reference[finite].astype(np.float64)
    if not a.size:
        return 0.0
    unit = float(np.sqrt((b * b).sum(axis=1).mean()))
    unit = max(unit, 1.0) if logits else unit
    apart = float(np.sqrt(((a - b) ** 2).sum(axis=1)).max())
    return apart / unit if unit else (float("inf") if apart else 0.0)
