"""From hidden states to the weights of terms: one sparse vector for each sequence, in float32.

Shape suffixes of tensors, one letter per axis:
    T  tokens of all sequences together
    S  sequences
    E  hidden size
    V  terms of the vocabulary, or of a block of it
    N  entries of all sparse vectors together
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import Reads
from pipeline.encoder.architecture.sparse_head import SparseHead
from pipeline.encoder.model.activations import activate_
from pipeline.encoder.model.attention import LengthGroup, group_equal_lengths
from pipeline.encoder.model.packed_batch import PackedBatch

# Logits at once: tokens by terms. Two megabytes stay in a core's cache while they are reduced.
_TOKENS, _TERMS = 512, 1024
# Entries that are added while the vocabulary is gone through, before each sequence's are cut.
_ADDED = 1 << 20

# Entries of each sequence [S] int64; terms [N] int32, ascending within a sequence; values [N].
Terms: TypeAlias = tuple[Tensor, Tensor, Tensor]


class TermHead(Protocol):
    """What weighs the terms of sequences."""

    reads: Reads
    width: int  # 0: a weight is a single number

    def __call__(self, hidden_TE: Tensor, batch: PackedBatch) -> Terms:
        """Hidden states of all tokens → the terms whose weights are not zero; NaN stays."""


class VocabularyHead:
    """SPLADE: log(1 + relu(logits)) of a masked language model, the maximum or the sum over tokens.

    The logits of all tokens and terms would have gigabytes: they are made and reduced in blocks.

    Attributes:
        reads: every token.
    """

    reads: Reads = "all"
    width = 0

    def __init__(self, head: SparseHead, weights: Mapping[str, Tensor], most: int) -> None:
        """Keep the tensors of the prediction head, float32.

        Args:
            head: says what is computed.
            weights: by the own names of `head.tensors`.
            most: terms of a sequence that are kept, the largest ones.
        """
        self._head = head
        self._weights = weights
        self._most = most

    def __call__(self, hidden_TE: Tensor, batch: PackedBatch) -> Terms:
        """See `TermHead`."""
        x_TE = self._transform(hidden_TE.float())
        decoder_VE, bias_V = self._weights["decoder.weight"], self._weights.get("decoder.bias")
        filled_S = batch.cu_seqlens.diff() > 0
        blocks = [group_equal_lengths(block) for block in _blocks(batch.offsets)]
        found = _Found(int(filled_S.sum()), self._most, x_TE.device)
        for first in range(0, decoder_VE.shape[0], _TERMS):
            some = slice(first, first + _TERMS)
            bias = None if bias_V is None else bias_V[some]
            pooled = [self._pool(x_TE, groups, decoder_VE[some], bias) for groups in blocks]
            found.add(torch.cat(pooled), first)
        counts, ids_N, values_N = found.terms()
        counts_S = torch.zeros_like(filled_S, dtype=torch.long)
        counts_S[filled_S] = counts
        return counts_S, ids_N, values_N

    def _transform(self, hidden_TE: Tensor) -> Tensor:
        weights, head = self._weights, self._head
        x_TE = functional.linear(hidden_TE, weights["dense.weight"], weights.get("dense.bias"))
        x_TE = activate_(x_TE, head.transform)
        norm = weights["norm.weight"]
        return functional.layer_norm(
            x_TE, norm.shape, norm, weights.get("norm.bias"), head.norm_eps
        )

    def _pool(
        self, x_TE: Tensor, groups: list[LengthGroup], decoder_VE: Tensor, bias_V: Tensor | None
    ) -> Tensor:
        """Weights of a block of terms in neighbouring sequences, [S, V]."""
        start, stop = groups[0].start, groups[-1].stop
        sums = self._head.pooling == "sum"
        if stop - start > _TOKENS:  # a single sequence, whose tokens are taken in turn
            cuts = [*range(start, stop, _TOKENS), stop]
            pieces = [LengthGroup(i, j, j - i) for i, j in pairwise(cuts)]
            parts = torch.cat([self._pool(x_TE, [one], decoder_VE, bias_V) for one in pieces])
            return parts.sum(0, keepdim=True) if sums else parts.amax(0, keepdim=True)
        logits_TV = functional.linear(x_TE[start:stop], decoder_VE, bias_V)
        if sums:
            logits_TV = self._activate(logits_TV)
        rows = []
        for group in groups:
            part = logits_TV[group.start - start : group.stop - start]
            part_SLV = part.view(group.count, group.length, -1)
            rows.append(part_SLV.sum(1) if sums else part_SLV.amax(1))
        # The activation rises, so that of the largest logit is the largest.
        return torch.cat(rows) if sums else self._activate(torch.cat(rows))

    def _activate(self, logits: Tensor) -> Tensor:
        weights = logits.relu_().log1p_()
        return weights.log1p_() if self._head.activation == "log1p_relu" else weights


def _blocks(offsets: list[int]) -> Iterator[list[int]]:
    """The offsets of neighbouring sequences that have few tokens together; of a long one, alone."""
    block = offsets[:1]
    for stop in offsets[1:]:
        if len(block) > 1 and stop - block[0] > _TOKENS and block[-1] > block[0]:
            yield block
            block = block[-1:]
        block.append(stop)
    if block[-1] > block[0]:
        yield block


class TokenWeightHead:
    """bge-m3: relu of a linear layer over each token; a term has the largest of its tokens.

    Attributes:
        reads: every token.
    """

    reads: Reads = "all"
    width = 0

    def __init__(self, weights: Mapping[str, Tensor], dropped: tuple[int, ...], most: int) -> None:
        """Keep the layer, float32.

        Args:
            weights: `weight` of E values, `bias` of one.
            dropped: token ids that are no terms: special ones.
            most: terms of a sequence that are kept, the largest ones.
        """
        self._weight_E = weights["weight"].reshape(-1)
        self._bias = weights["bias"].reshape(())
        self._dropped = torch.tensor(dropped, device=self._bias.device)
        self._most = most

    def __call__(self, hidden_TE: Tensor, batch: PackedBatch) -> Terms:
        """See `TermHead`."""
        values_T = torch.mv(hidden_TE.float(), self._weight_E).add_(self._bias).relu_()
        kept_T = ~torch.isin(batch.ids, self._dropped.to(batch.ids.dtype))
        return _by_term(batch, values_T, kept_T, self._most)


class TermTable:
    """SparseStaticEmbedding: every term of a text has the weight of its token, however often.

    Attributes:
        reads: nothing: ids alone.
    """

    reads: Reads = "all"
    width = 0

    def __init__(self, weights: Mapping[str, Tensor], most: int) -> None:
        """Keep the table, `weight` [V] float32."""
        self._weight_V = weights["weight"]
        self._most = most

    def __call__(self, hidden_TE: Tensor, batch: PackedBatch) -> Terms:
        """See `TermHead`."""
        values_T = self._weight_V[batch.ids.long()]
        return _by_term(batch, values_T, torch.ones_like(values_T, dtype=torch.bool), self._most)


def _by_term(batch: PackedBatch, values_T: Tensor, kept_T: Tensor, most: int) -> Terms:
    """The largest value of each token id of a sequence; terms of weight zero are left out."""
    lengths_S = batch.cu_seqlens.diff().long()
    sequences = lengths_S.shape[0]
    numbers_S = torch.arange(sequences, device=lengths_S.device)
    owner_T = torch.repeat_interleave(numbers_S, lengths_S, output_size=values_T.shape[0])
    kept_T = kept_T & (values_T != 0)
    owner_N, ids_N, values_N = owner_T[kept_T], batch.ids[kept_T].long(), values_T[kept_T]
    width = int(ids_N.max()) + 1 if ids_N.numel() else 1
    keys, place_N = torch.unique(owner_N * width + ids_N, return_inverse=True)
    largest = values_N.new_full(keys.shape, -torch.inf)
    largest.scatter_reduce_(0, place_N, values_N, "amax")
    return _largest(keys // width, keys % width, largest, sequences, most)


class _Found:
    """The terms that were found in the blocks of a vocabulary so far."""

    def __init__(self, sequences: int, most: int, device: torch.device) -> None:
        self._sequences = sequences
        self._most = most
        empty = torch.empty(0, dtype=torch.long, device=device)
        self._parts: list[Terms] = [(empty, empty, empty.float())]  # owners, terms, values
        self._added = 0  # entries since they were cut

    def add(self, pooled_SV: Tensor, first: int) -> None:
        """Add a block of weights, whose first term has the number `first`."""
        owner_N, term_N = (pooled_SV != 0).nonzero(as_tuple=True)
        self._parts.append((owner_N, term_N + first, pooled_SV[owner_N, term_N]))
        self._added += owner_N.shape[0]
        if self._added > _ADDED:
            counts, ids, values = self.terms()
            numbers = torch.arange(self._sequences, device=counts.device)
            self._parts = [(torch.repeat_interleave(numbers, counts), ids.long(), values)]
            self._added = 0

    def terms(self) -> Terms:
        """The terms of each sequence."""
        owner_N, ids_N, values_N = (torch.cat(list(x)) for x in zip(*self._parts, strict=True))
        order_N = owner_N.argsort(stable=True)  # the blocks came in the order of their terms
        return _largest(
            owner_N[order_N], ids_N[order_N], values_N[order_N], self._sequences, self._most
        )


def _largest(owner_N: Tensor, ids_N: Tensor, values_N: Tensor, sequences: int, most: int) -> Terms:
    """At most `most` terms of each sequence, those of the largest size; of equal ones, the first.

    `owner_N` and, within an owner, `ids_N` are ascending.
    """
    counts_S = torch.bincount(owner_N, minlength=sequences)
    if counts_S.numel() and int(counts_S.max()) > most:
        by_size = values_N.abs().argsort(descending=True, stable=True)
        order_N = by_size[owner_N[by_size].argsort(stable=True)]
        starts_S = counts_S.cumsum(0) - counts_S
        rank_N = torch.arange(order_N.shape[0], device=owner_N.device) - starts_S[owner_N]
        kept_N = order_N[rank_N < most].sort().values
        ids_N, values_N = ids_N[kept_N], values_N[kept_N]
        counts_S = counts_S.clamp(max=most)
    return counts_S, ids_N.int(), values_N
