"""Token ids of many rows as flat arrays, from which batches are packed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.maxsim import Interaction
from pipeline.packing import Batch, Int8Array, Int32Array, Int64Array, Masks, Spans, gather, pack
from pipeline.tokenize.chunks import Chunks


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokenized rows of a block: R rows, S sequences (any number per row), T tokens."""

    ids: Int32Array  # [T]
    offsets: Int64Array  # [S + 1]
    row_of: Int64Array  # [S], the row each sequence belongs to, not decreasing
    n_tokens: Int32Array  # [R], tokens that the model reads for each row
    truncated: np.ndarray[tuple[int], np.dtype[np.bool_]]  # [R]
    errors: dict[int, str] = field(default_factory=dict)  # row → why it has no sequence
    type_ids: Int8Array | None = None  # [T]
    # [T, 2], start and end (exclusive) in characters of the row's text, if the task needs them; -1
    # for tokens whose output is not used: special ones, and all but one copy of repeated ones.
    char_spans: Int32Array | None = None
    cut: Int32Array | None = None  # [R], tokens that truncation left out; None: none
    chunks: Chunks | None = None  # where a row has several
    spans: Spans | None = None  # what outputs are pooled from, chunk by chunk
    masks: Masks | None = None  # where each token has a vector
    interaction: Interaction | None = None  # where queries and documents are read apart

    @property
    def lengths(self) -> Int64Array:
        """Tokens per sequence, [S]."""
        return np.diff(self.offsets)

    @property
    def token_rows(self) -> Int64Array:
        """The row each token belongs to, [T]."""
        return np.repeat(self.row_of, self.lengths)

    @property
    def rows(self) -> int:
        return int(self.n_tokens.shape[0])

    def packed(self, token_budget: int) -> Iterable[Int64Array]:
        """The sequences of each batch, in order; see `pack`."""
        if self.interaction is not None:
            return self.interaction.batches(self.lengths, token_budget)
        return pack(self.lengths, token_budget)

    def batch(self, sequences: Int64Array) -> Batch:
        """Some sequences, packed."""
        return gather(self.ids, self.offsets, sequences, self.type_ids, self.spans, self.masks)


def no_tokens(rows: int, errors: dict[int, str]) -> Tokens:
    """Tokens of rows without a sequence, with the reason for each."""
    zero = np.zeros(rows, dtype=np.int32)
    return Tokens(
        ids=np.zeros(0, dtype=np.int32),
        offsets=np.zeros(1, dtype=np.int64),
        row_of=np.zeros(0, dtype=np.int64),
        n_tokens=zero,
        truncated=zero.astype(np.bool_),
        errors=errors,
        char_spans=np.zeros((0, 2), dtype=np.int32),
    )


def assemble(
    rows: int,
    row_of: Int64Array,
    lengths: Int64Array,
    ids: Int32Array,
    truncated: npt.NDArray[np.bool_],
    errors: dict[int, str],
    *,
    type_ids: Int8Array | None = None,
    char_spans: Int32Array | None = None,
) -> Tokens:
    """Tokens of sequences, given their rows [S], lengths [S], truncation [S] and flat ids [T]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    n_tokens = np.bincount(row_of, weights=lengths, minlength=rows).astype(np.int32)
    truncated_rows = np.zeros(rows, dtype=np.bool_)
    truncated_rows[row_of[truncated]] = True
    return Tokens(ids, offsets, row_of, n_tokens, truncated_rows, errors, type_ids, char_spans)
