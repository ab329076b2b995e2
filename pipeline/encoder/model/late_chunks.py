"""Late chunking: a text is encoded as a whole, then each chunk is pooled from its tokens' states.

A span is a sequence to the head that follows, so pooling, module files, dimensions and unit length
are those of the model (Günther et al., 2024, arXiv:2409.04701).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.packed_batch import PackedBatch


class LateChunkHead:
    """Hidden states → one vector per span, in the order of the spans.

    Attributes:
        reads: every token.
        output_size: dimensions of a vector.
    """

    reads: Reads = "all"

    def __init__(self, head: SentenceHead) -> None:
        """Wrap the head of a model; it must take the states of all tokens."""
        self._head = head
        self.output_size = head.output_size

    def __call__(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states [T, E] → vectors of spans [K, output_size] float32."""
        assert batch.spans is not None
        tokens, cu_seqlens = batch.spans.tokens, batch.spans.cu_seqlens
        of_spans = replace(batch, ids=batch.ids[tokens], cu_seqlens=cu_seqlens, spans=None)
        return self._head(torch.index_select(hidden, 0, tokens), of_spans)
