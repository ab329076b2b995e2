"""From hidden states to a vector for each token, in float32.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    E  hidden size
    N  tokens that have a vector
    V  width of a vector
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.architecture.multi_head import MultiHead
from pipeline.encoder.model.module_steps import apply_module, module_weights
from pipeline.encoder.model.packed_batch import PackedBatch


class TokenVectorHead:
    """The modules over the hidden states of tokens: mostly a linear layer, then unit length.

    Attributes:
        reads: every token.
        width: of a vector.
    """

    reads: Reads = "all"

    def __init__(self, head: MultiHead, device: torch.device) -> None:
        """Load the weights of the modules.

        Raises:
            CheckpointError: their file is damaged.
        """
        self.width = head.dimensions
        self._steps = [(step, module_weights(tensors, device)) for step, tensors in head.steps]

    def __call__(self, hidden_TE: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states of all tokens → the tokens of each sequence that have a vector, their
        number [S] int64 and places in it [N] int32, and the vectors [N, V].
        """
        starts_S1 = batch.cu_seqlens.long()
        lengths_S = starts_S1.diff()
        everything_T = torch.arange(hidden_TE.shape[0], device=hidden_TE.device)
        firsts_T = torch.repeat_interleave(
            starts_S1[:-1], lengths_S, output_size=hidden_TE.shape[0]
        )
        ranks_N, rows_NV, counts_S = everything_T - firsts_T, hidden_TE, lengths_S
        if (mask_T := batch.vector_mask) is not None:
            before_T1 = torch.nn.functional.pad(mask_T.long().cumsum(0), (1, 0))
            counts_S = before_T1[starts_S1].diff()
            ranks_N, rows_NV = ranks_N[mask_T], hidden_TE[mask_T]
        rows_NV = rows_NV.float()
        for step, weights in self._steps:
            rows_NV = apply_module(step, weights, rows_NV)
        return counts_S, ranks_N.int(), rows_NV
