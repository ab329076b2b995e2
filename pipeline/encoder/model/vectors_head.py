"""Several kinds of vectors from the hidden states of one forward pass.

Shapes: T tokens, S sequences, N entries of all lists.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.sparse_heads import TermHead


class VectorsHead:
    """Hidden states → dense vectors, if they are wanted, and sparse ones.

    Attributes:
        reads: every token.
        output_size: width of the dense vectors, 0 without them.
    """

    reads: Reads = "all"

    def __init__(self, dense: SentenceHead | None, sparse: TermHead) -> None:
        """Combine two heads, of which the first must take the states of all tokens."""
        self._dense = dense
        self._sparse = sparse
        self.output_size = dense.output_size if dense is not None else 0

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Hidden states [T, E] → rows [S, output_size], and of each list head three tensors that
        hold one list per sequence: entries [S], ids [N], values [N].
        """
        sequences = len(batch.offsets) - 1
        rows = hidden.new_empty(sequences, 0).float()
        if self._dense is not None:
            rows = self._dense(hidden, batch)
        return rows, *self._sparse(hidden, batch)
