"""CUDA graphs of the whole way from token ids to rows: one launch a batch in place of hundreds.

On short texts and small models a GPU waits for the host to launch kernels; a graph is launched as
one. See `static` for the shapes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.encoder.packed import Packed
from pipeline.encoder.static import Filled, Shape, fill, shape_for
from pipeline.packing import Batch

logger = logging.getLogger(__name__)

# A shape is captured when it comes for the second time: the odd end of a window is not worth it.
_CAPTURE_AT = 2
# Graphs kept: lengths 32 … 8192 at a full budget and some ends of windows.
_MAX_GRAPHS = 48
# Runs before a capture: libraries choose their kernels and take their workspaces.
_WARM_UPS = 2

Compute = Callable[[Packed], Tensor]  # a packed batch → rows


def packed(filled: Filled, shape: Shape, device: torch.device) -> Packed:
    """A filled batch on a device."""
    types = filled.type_ids
    return Packed(
        ids=torch.from_numpy(filled.ids).to(device),
        cu_seqlens=torch.from_numpy(filled.cu_seqlens).to(device),
        offsets=filled.cu_seqlens.tolist(),
        max_seqlen=shape.max_seqlen,
        type_ids=None if types is None else torch.from_numpy(types).int().to(device),
    )


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: Packed  # written before each replay
    rows: Tensor  # written by each replay


class Graphs:
    """The captured graphs of one encoder and head. For one thread and one stream."""

    def __init__(
        self, compute: Compute, device: torch.device, *, per_token: bool, limit: int | None
    ) -> None:
        """Begin without any graph.

        Args:
            compute: what is captured; must not wait for the device.
            device: a CUDA device.
            per_token: whether rows belong to tokens, not to sequences.
            limit: tokens of a sequence, where the model has a position table.
        """
        self._compute = compute
        self._device = device
        self._per_token = per_token
        self._limit = limit
        self._seen: Counter[tuple[Shape, bool]] = Counter()
        self._captured: dict[tuple[Shape, bool], _Captured] = {}
        self._pool: Any = None  # where graphs keep their memory

    def run(self, batch: Batch) -> Tensor | None:
        """Rows of a batch on the device, None where no graph is worth it or none fits.

        Raises:
            torch.OutOfMemoryError: the shape does not fit into the device's memory.
        """
        shape = shape_for(batch.tokens, batch.max_seqlen, len(batch), self._limit)
        if shape is None:
            return None
        key = (shape, batch.type_ids is not None)
        self._seen[key] += 1
        if key not in self._captured:
            if self._seen[key] < _CAPTURE_AT or len(self._captured) >= _MAX_GRAPHS:
                return None
            self._captured[key] = self._capture(fill(batch, shape), shape)
        captured = self._captured[key]
        self._write(captured.inputs, fill(batch, shape))
        captured.graph.replay()
        # A copy: the next replay writes over the original.
        return captured.rows[: batch.tokens if self._per_token else len(batch)].clone()

    def clear(self) -> None:
        """Give the graphs' memory back."""
        self._captured.clear()
        self._seen.clear()
        self._pool = None

    def _capture(self, filled: Filled, shape: Shape) -> _Captured:
        inputs = packed(filled, shape, self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._compute(inputs)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Graphs replay one after the other on one stream, so they may share their memory. Other
        # threads use the device's allocator meanwhile: theirs are not the calls to object to.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            rows = self._compute(inputs)
        self._pool = graph.pool()
        logger.debug("captured %s", shape.name)
        return _Captured(graph, inputs, rows)

    @staticmethod
    def _write(inputs: Packed, filled: Filled) -> None:
        _send(inputs.ids, filled.ids)
        _send(inputs.cu_seqlens, filled.cu_seqlens)
        if inputs.type_ids is not None and filled.type_ids is not None:
            _send(inputs.type_ids, filled.type_ids.astype(np.int32))


def _send(target: Tensor, values: npt.NDArray[np.int32]) -> None:
    """Copy to the device without waiting; the allocator keeps the pinned source until then."""
    target.copy_(torch.from_numpy(values).pin_memory(), non_blocking=True)
