"""Lengths → batches under a token budget. Works on integers only: no tensors and no texts.

Batches are not padded: a batch is a flat array of tokens plus the cumulative offsets of its
sequences, so mixed lengths cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spans:
    """Tokens whose states give an output each, K of them in S sequences; they may overlap."""

    firsts: Int64Array  # [K], index of the first token among all
    counts: Int64Array  # [K]
    bounds: Int64Array  # [S + 1], the first span of each sequence, and K

    def of(self, sequences: Int64Array, moved: Int64Array) -> Spans:
        """Those of some sequences, [B], whose tokens are `moved` [B] further on there."""
        sizes = np.diff(self.bounds)[sequences]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        index = np.arange(bounds[-1]) + np.repeat(self.bounds[sequences] - bounds[:-1], sizes)
        return Spans(self.firsts[index] + np.repeat(moved, sizes), self.counts[index], bounds)


@dataclass(frozen=True, slots=True)
class Masks:
    """What tokens are for, where each token has a vector; T tokens."""

    vector: BoolArray  # [T], those that have one
    attention: BoolArray | None = None  # [T], those that the others of a text see; None: all

    def at(self, index: Int64Array) -> Masks:
        """Those of some tokens; no mask of attention where all of them are seen."""
        # With a mask, a GPU cannot use its variable-length kernel.
        attention = None if self.attention is None else self.attention[index]
        if attention is not None and attention.all():
            attention = None
        return Masks(self.vector[index], attention)


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward pass: packed token ids without padding.

    Shapes: S sequences holding T tokens in total.
    """

    ids: Int32Array  # [T]
    cu_seqlens: Int32Array  # [S + 1], starts at 0, ends at T
    max_seqlen: int
    sequences: Int64Array  # [S], the index of each sequence in its block
    type_ids: Int8Array | None = None  # [T], token types of pairs; None means all zero
    spans: Spans | None = None  # None: an output per sequence, or per token
    masks: Masks | None = None  # None: every token is attended to, and has a vector where any has

    @property
    def tokens(self) -> int:
        """Tokens in the batch."""
        return int(self.ids.shape[0])

    def output_bounds(self, *, per_token: bool) -> Int32Array | Int64Array | None:
        """The first output of each sequence, [S + 1]; None where each has one."""
        if self.spans is not None:
            return self.spans.bounds
        return self.cu_seqlens if per_token else None

    def __len__(self) -> int:
        """Sequences in the batch."""
        return int(self.sequences.shape[0])


def pack(lengths: npt.ArrayLike, token_budget: int) -> list[Int64Array]:
    """Group sequences into batches of at most `token_budget` tokens, longest first.

    Sequences in a batch have similar lengths. The batch with the longest sequences comes first, so
    that a device with too little memory for the budget fails at once. A sequence longer than the
    budget gets a batch of its own: the budget never drops a row.

    Args:
        lengths: tokens per sequence, [S] integers ≥ 0.
        token_budget: the most tokens in a batch, ≥ 1.

    Returns:
        Index arrays into `lengths` that cover every sequence exactly once. Equal lengths keep
        their order, so the result depends only on the arguments.

    Raises:
        ValueError: the budget is below 1 or a length is negative.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    if sizes.size == 0:
        return []
    if int(sizes.min()) < 0:
        raise ValueError("a sequence length is negative")
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    batches: list[Int64Array] = []
    start = 0
    used = 0
    while start < order.size:
        stop = int(np.searchsorted(ends, used + token_budget, side="right"))
        stop = max(stop, start + 1)
        batches.append(order[start:stop])
        used = int(ends[stop - 1])
        start = stop
    return batches


def gather(
    ids: Int32Array,
    offsets: Int64Array,
    sequences: Int64Array,
    type_ids: Int8Array | None = None,
    spans: Spans | None = None,
    masks: Masks | None = None,
) -> Batch:
    """Copy the tokens of the given sequences, in that order, into one packed batch.

    Args:
        ids: flat token ids of a block, [N].
        offsets: the start of each sequence of the block and the end of the last, [S + 1].
        sequences: the indexes of the sequences to copy, [B].
        type_ids: the token types of `ids`, [N], or None.
        spans: of the block, or None.
        masks: of `ids`, or None.
    """
    starts = offsets[sequences]
    sizes = offsets[sequences + 1] - starts
    cu_seqlens = np.zeros(sequences.size + 1, dtype=np.int32)
    np.cumsum(sizes, out=cu_seqlens[1:])
    # The position of each token in the block: the start of its sequence plus its rank in it.
    index = np.arange(int(cu_seqlens[-1]), dtype=np.int64)
    index += np.repeat(starts - cu_seqlens[:-1], sizes)
    return Batch(
        ids=ids[index],
        cu_seqlens=cu_seqlens,
        max_seqlen=int(sizes.max(initial=0)),
        sequences=sequences,
        type_ids=None if type_ids is None else type_ids[index],
        spans=None if spans is None else spans.of(sequences, cu_seqlens[:-1] - starts),
        masks=None if masks is None else masks.at(index),
    )


def some_of(batch: Batch, sequences: Int64Array) -> Batch:
    """Some sequences of a batch as a batch of their own, [B] indexes into it."""
    offsets = batch.cu_seqlens.astype(np.int64)
    return gather(batch.ids, offsets, sequences, batch.type_ids, batch.spans, batch.masks)
