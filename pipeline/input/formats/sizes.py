"""How many bytes the rows of a file take in memory: counted or estimated, a few MiB at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.packing import Int64Array

# Rows of about so many bytes are read, and sized, together.
BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """Consecutive rows of a file in S stretches, and what each of C columns takes in memory."""

    columns: tuple[str, ...]
    rows: Int64Array  # [S]
    bytes: Int64Array  # [S, C]
    exact: npt.NDArray[np.bool_]  # [S] whether the bytes were counted; else they are estimated
    offsets: Int64Array  # [S] bytes of uncompressed text before each; -1 where there is no text

    def renamed(self, names: Mapping[str, str]) -> Sizes:
        """The same with other names of the columns."""
        return replace(self, columns=tuple(names[name] for name in self.columns))

    def of(self, columns: Collection[str]) -> Int64Array:
        """The bytes of some columns together, [S]."""
        chosen = [name in columns for name in self.columns]
        total: Int64Array = self.bytes[:, chosen].sum(axis=1)
        return total


class SizeCounter:
    """Collects the sizes of consecutive rows.

    Args:
        columns: whose sizes are collected.
        together: bytes of rows that become one stretch at most.
    """

    def __init__(self, columns: Sequence[str], together: int = BATCH_BYTES) -> None:
        self._columns = tuple(columns)
        self._together = together
        self._rows: list[int] = []
        self._bytes: list[list[int]] = []
        self._exact: list[bool] = []
        self._offsets: list[int] = []

    def add(
        self,
        rows: int,
        sizes: Mapping[str, int],
        *,
        offset: int = -1,
        exact: bool = True,
        apart: bool = False,
    ) -> None:
        """The next rows; those that are small together become one stretch, unless `apart`."""
        new = [sizes.get(name, 0) for name in self._columns]
        if not apart and self._rows and sum(self._bytes[-1]) + sum(new) <= self._together:
            self._rows[-1] += rows
            self._bytes[-1] = [a + b for a, b in zip(self._bytes[-1], new, strict=True)]
            self._exact[-1] &= exact
            return
        self._rows.append(rows)
        self._bytes.append(new)
        self._exact.append(exact)
        self._offsets.append(offset)

    def sizes(self) -> Sizes:
        """What was collected."""
        shape = (len(self._rows), len(self._columns))
        return Sizes(
            self._columns,
            np.array(self._rows, dtype=np.int64),
            np.array(self._bytes, dtype=np.int64).reshape(shape),
            np.array(self._exact, dtype=np.bool_),
            np.array(self._offsets, dtype=np.int64),
        )
