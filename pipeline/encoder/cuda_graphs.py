"""CUDA graphs of the whole way from token ids to rows: one launch a batch in place of hundreds.

On short texts and small models a GPU waits for the host to launch kernels; a graph is launched as
one. See `static` for the shapes, `capture` for the recording.
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

from pipeline.encoder.device.graph_capture import capture
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.graph_shapes import Filled, Shape, fill, shape_for
from pipeline.encoder.model.packed_batch import PackedBatch, to_device
from pipeline.packing import Batch

logger = logging.getLogger(__name__)

# A shape is captured when it comes for the second time: the odd end of a window is not worth it.
_CAPTURE_AT = 2
# Graphs kept: lengths 32 … 8192 at a full budget and some ends of windows.
_MAX_GRAPHS = 48

Compute = Callable[[PackedBatch], Tensor]  # a packed batch → rows


def packed(filled: Filled, shape: Shape, device: torch.device) -> PackedBatch:
    """A filled batch on a device."""
    types = filled.type_ids
    return PackedBatch(
        ids=to_device(filled.ids, device),
        cu_seqlens=to_device(filled.cu_seqlens, device),
        offsets=filled.cu_seqlens.tolist(),
        max_seqlen=shape.max_seqlen,
        type_ids=None if types is None else to_device(types.astype(np.int32), device),
    )


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any  # torch.cuda.CUDAGraph
    inputs: PackedBatch  # written before each replay
    rows: Tensor  # written by each replay


class CudaGraphs:
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
        self._stream: Any = None  # where graphs are captured
        self._pool: Any = None  # where they keep their memory
        self._refused = False  # something here cannot be captured

    def run(self, batch: Batch) -> Tensor | None:
        """Rows of a batch on the device, None where it fits no shape.

        A shape without a graph is computed as the graph would: what a row's bits are does not
        depend on what ran before.

        Raises:
            torch.OutOfMemoryError: the shape does not fit into the device's memory.
        """
        shape = shape_for(batch.tokens, batch.max_seqlen, len(batch), self._limit)
        if shape is None:
            return None
        filled = fill(batch, shape)
        rows = batch.tokens if self._per_token else len(batch)
        captured = self._graph_of(shape, filled)
        if captured is None:
            return self._compute(packed(filled, shape, self._device))[:rows]
        _write(captured.inputs, filled)
        captured.graph.replay()
        # A copy: the next replay writes over the original.
        return captured.rows[:rows].clone()

    @property
    def captured(self) -> tuple[Shape, ...]:
        """The shapes that are replayed from now on."""
        return tuple(shape for shape, _ in self._captured)

    def clear(self) -> None:
        """Give the graphs' memory back."""
        self._captured.clear()
        self._seen.clear()
        self._pool = None

    def _graph_of(self, shape: Shape, filled: Filled) -> _Captured | None:
        """The graph of a shape, captured now where it is worth it; None where there is none."""
        key = (shape, filled.type_ids is not None)
        self._seen[key] += 1
        if key not in self._captured:
            worth = self._seen[key] >= _CAPTURE_AT and len(self._captured) < _MAX_GRAPHS
            if self._refused or not worth:
                return None
            try:
                self._captured[key] = self._capture(filled, shape)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._refused = True
                logger.warning("no CUDA graphs, kernels are launched one by one: %s", error)
                return None
        return self._captured[key]

    def _capture(self, filled: Filled, shape: Shape) -> _Captured:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = packed(filled, shape, self._device)
        graph, rows = capture(lambda: self._compute(inputs), self._stream, self._pool)
        logger.debug("captured %s", shape.name)
        return _Captured(graph, inputs, rows)


def _write(inputs: PackedBatch, filled: Filled) -> None:
    _copy(inputs.ids, filled.ids)
    _copy(inputs.cu_seqlens, filled.cu_seqlens)
    if inputs.type_ids is not None and filled.type_ids is not None:
        _copy(inputs.type_ids, filled.type_ids.astype(np.int32))


def _copy(target: Tensor, values: npt.NDArray[np.int32]) -> None:
    host = torch.from_numpy(values)
    target.copy_(host.pin_memory() if target.is_cuda else host, non_blocking=True)
