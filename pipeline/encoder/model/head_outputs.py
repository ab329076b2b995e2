"""The outputs of a head between the device and the host: rows, and lists for some models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.load import Head
from pipeline.encoder.model.vectors_head import VectorsHead
from pipeline.outputs import Int64Array, Lists, Outputs
from pipeline.packing import Batch

# Rows, then of each head that makes lists: entries of each sequence, ids, values.
Parts: TypeAlias = tuple[Tensor, ...]
_OF_LISTS = 3


def concatenated(parts: Sequence[Parts]) -> Parts:
    """The outputs of several batches, as those of one."""
    return tuple(torch.cat(list(each)) for each in zip(*parts, strict=True))


def empty_parts(head: Head, batch: Batch, device: torch.device, *, per_token: bool) -> Parts:
    """Outputs of sequences that all have no tokens: NaN, and lists without entries."""
    if per_token:
        return (torch.empty(0, head.output_size, device=device),)
    embeds = isinstance(head, SentenceHead | VectorsHead)
    single = head.output_size == 1 and not embeds
    shape = (len(batch),) if single else (len(batch), head.output_size)
    rows = torch.full(shape, torch.nan, device=device)
    if not isinstance(head, VectorsHead):
        return (rows,)
    counts = torch.zeros(len(batch), dtype=torch.long, device=device)
    shapes = [(0, width) if width else (0,) for width in head.widths]
    lists = ((counts, counts[:0].int(), rows.new_empty(shape)) for shape in shapes)
    return rows, *(part for one in lists for part in one)


def as_outputs(parts: Parts, kinds: Sequence[str]) -> Outputs:
    """Outputs on the host as NumPy's arrays; `kinds` names the heads that make lists."""
    rows, *others = (part.numpy() for part in parts)
    lists = {
        kind: Lists(*others[_OF_LISTS * i : _OF_LISTS * (i + 1)]) for i, kind in enumerate(kinds)
    }
    return Outputs(rows, lists)


def non_finite(outputs: Outputs, batch: Batch, *, per_token: bool) -> Int64Array:
    """Sequences with tokens whose outputs are not all finite."""
    finite = outputs.finite()
    if finite.all():
        return np.empty(0, dtype=np.int64)
    bounds = batch.output_bounds(per_token=per_token)
    if bounds is not None:
        owner = np.repeat(np.arange(len(batch)), np.diff(bounds))
        return np.unique(owner[~finite])
    return np.flatnonzero(~finite & (np.diff(batch.cu_seqlens) > 0))


def repaired(
    outputs: Outputs, batch: Batch, sequence: int, exact: Outputs | None, *, per_token: bool
) -> Outputs:
    """The outputs with those of one sequence replaced; by NaN unless `exact` is finite."""
    bounds = batch.output_bounds(per_token=per_token)
    first, last = (sequence, sequence + 1) if bounds is None else bounds[sequence : sequence + 2]
    sound = exact is not None and bool(exact.finite().all())
    outputs.rows[first:last] = exact.rows if exact is not None and sound else np.nan
    lists = {}
    for kind, of_kind in outputs.lists.items():
        one = exact.lists[kind] if exact is not None and sound else of_kind.not_finite()
        lists[kind] = of_kind.replaced(sequence, one)
    return Outputs(outputs.rows, lists)
