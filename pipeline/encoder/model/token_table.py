"""A table of token vectors in place of an encoder: one pass over the rows of each text's tokens."""

from __future__ import annotations

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.safetensors_headers import MatchedTensors, TensorInfo
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.errors import CheckpointError


class TokenTable:
    """The interface of `encoder.Encoder`; it returns the mean of each sequence, [S, E]."""

    capturable = False

    def __init__(self, matched: MatchedTensors, device: torch.device, dtype: torch.dtype) -> None:
        """Load the table with one row for each token.

        Raises:
            CheckpointError: a token is mapped to a row that is not there.
            SafetensorError: a file is damaged.
        """
        self._table = _fold(matched).to(device, dtype)  # [tokens, E]

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Mean of the rows of each sequence; zeros for one without tokens."""
        return functional.embedding_bag(
            batch.ids, self._table, batch.cu_seqlens, mode="mean", include_last_offset=True
        )


class NoTable:
    """The interface of `encoder.Encoder` where the head reads token ids alone."""

    capturable = False

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Nothing of each token, [T, 0]."""
        return torch.empty(batch.ids.shape[0], 0, device=batch.ids.device)


def _fold(matched: MatchedTensors) -> Tensor:
    """Row of each token: table[row of the token] * weight of the token."""
    own = {name: _read(source) for name, (source,) in matched.sources.items()}
    table = own["tokens.weight"]
    if (rows := own.get("token_rows.weight")) is not None:
        _check_rows(rows, table, matched)
        table = table[rows.long()]
    if (weights := own.get("token_weights.weight")) is not None:
        table = table.to(torch.promote_types(table.dtype, torch.float32)) * weights[:, None]
    return table


def _read(source: TensorInfo) -> Tensor:
    with safe_open(source.file, framework="pt") as handle:
        tensor: Tensor = handle.get_tensor(source.name)
    return tensor


def _check_rows(rows: Tensor, table: Tensor, matched: MatchedTensors) -> None:
    least, most = int(rows.min()), int(rows.max())
    if least < 0 or most >= table.shape[0]:
        (source,) = matched.sources["token_rows.weight"]
        raise CheckpointError(
            f"{source.file}: {source.name} names the rows {least:,} to {most:,} of a table of "
            f"{table.shape[0]:,}",
            hint=DOWNLOAD_AGAIN,
        )
