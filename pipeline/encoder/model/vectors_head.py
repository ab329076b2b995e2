"""Several kinds of vectors from the hidden states of one forward pass.

Shapes: T tokens, S sequences, N entries of all lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.packed_batch import PackedBatch


class ListHead(Protocol):
    """What makes a list for each sequence: of terms, or of vectors."""

    @property
    def width(self) -> int:
        """Values of an entry, 0 where it is a single number."""
        ...

    def __call__(self, hidden: Tensor, batch: PackedBatch, /) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states of all tokens → entries of each sequence [S], ids [N], and values [N] or
        [N, width].
        """


class VectorsHead:
    """Hidden states → dense vectors, if they are wanted, and lists: sparse vectors, or several.

    Attributes:
        reads: every token.
        output_size: width of the dense vectors, 0 without them.
        widths: of each kind of list, see `ListHead`.
    """

    reads: Reads = "all"

    def __init__(self, dense: SentenceHead | None, lists: Sequence[ListHead]) -> None:
        """Combine heads, of which that of dense vectors must take the states of all tokens."""
        self._dense = dense
        self._lists = lists
        self.output_size = dense.output_size if dense is not None else 0
        self.widths = tuple(head.width for head in lists)

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Hidden states [T, E] → rows [S, output_size], and of each list head the three tensors
        that it returns.
        """
        sequences = len(batch.offsets) - 1
        rows = hidden.new_empty(sequences, 0).float()
        if self._dense is not None:
            rows = self._dense(hidden, batch)
        return rows, *(part for head in self._lists for part in head(hidden, batch))
