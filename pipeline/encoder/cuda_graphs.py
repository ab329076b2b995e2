"""CUDA graphs of everything between token ids and outputs: one launch per batch, not hundreds.

On short texts and small models a GPU waits for the host to launch kernels; a graph is one launch.
See `graph_shapes` for the shapes and `device/graph_capture` for the capture.
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
from pipeline.encoder.graph_shapes import Filled, GraphShape, fill, shape_for
from pipeline.encoder.model.packed_batch import PackedBatch, pack_batch
from pipeline.packing import Batch

logger = logging.getLogger(__name__)

# A shape is captured on its second batch: the odd last batch of a block is not worth a graph.
_CAPTURE_AT = 2
# Graphs kept: lengths 32 … 8192 at a full budget, and the last batches of some blocks.
_MAX_GRAPHS = 48

Compute = Callable[[PackedBatch], Tensor]  # a packed batch → outputs


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any  # torch.cuda.CUDAGraph
    inputs: PackedBatch  # written before each replay
    outputs: Tensor  # written by each replay


class CudaGraphs:
    """The captured graphs of one encoder and head, for one thread and one stream."""

    def __init__(
        self, compute: Compute, device: torch.device, *, per_token: bool, limit: int | None
    ) -> None:
        """Start without graphs.

        Args:
            compute: what is captured; it must not wait for the device.
            device: a CUDA device.
            per_token: whether outputs belong to tokens, not to sequences.
            limit: the most tokens of a sequence if the model has a position table, else None.
        """
        self._compute = compute
        self._device = device
        self._per_token = per_token
        self._limit = limit
        self._seen: Counter[tuple[GraphShape, bool]] = Counter()
        self._captured: dict[tuple[GraphShape, bool], _Captured] = {}
        self._stream: Any = None  # where graphs are captured
        self._pool: Any = None  # the memory that they share
        self._failed = False  # a capture failed, so no other is tried
        self.padding_tokens = 0  # of all batches: those of the shape that no row needs

    def run(self, batch: Batch) -> Tensor | None:
        """Outputs of a batch on the device, None if it fits no shape.

        A batch whose shape has no graph yet is computed in that shape too, so that the bits of a
        output do not depend on what ran before.

        Raises:
            torch.OutOfMemoryError: the shape does not fit into the device's memory.
        """
        shape = shape_for(batch.tokens, batch.max_seqlen, len(batch), self._limit)
        if shape is None:
            return None
        self.padding_tokens += shape.tokens - batch.tokens
        filled = fill(batch, shape)
        outputs = batch.tokens if self._per_token else len(batch)
        captured = self._graph_of(shape, filled)
        if captured is None:
            return self._compute(pack_batch(filled, self._device))[:outputs]
        _write(captured.inputs, filled)
        captured.graph.replay()
        # A copy: the next replay overwrites the original.
        return captured.outputs[:outputs].clone()

    @property
    def captured(self) -> tuple[GraphShape, ...]:
        """The shapes that have a graph."""
        return tuple(shape for shape, _ in self._captured)

    def clear(self) -> None:
        """Release the graphs and their memory."""
        self._captured.clear()
        self._seen.clear()
        self._pool = None

    def _graph_of(self, shape: GraphShape, filled: Filled) -> _Captured | None:
        """The graph of a shape, captured now if that is worthwhile; None if there is none."""
        key = (shape, filled.type_ids is not None)
        self._seen[key] += 1
        if key not in self._captured:
            worthwhile = self._seen[key] >= _CAPTURE_AT and len(self._captured) < _MAX_GRAPHS
            if self._failed or not worthwhile:
                return None
            try:
                self._captured[key] = self._capture(filled, shape)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._failed = True
                logger.warning("no CUDA graphs, kernels are launched one by one: %s", error)
                return None
        return self._captured[key]

    def _capture(self, filled: Filled, shape: GraphShape) -> _Captured:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = pack_batch(filled, self._device)
        graph, outputs = capture(lambda: self._compute(inputs), self._stream, self._pool)
        logger.debug("captured %s", shape.name)
        return _Captured(graph, inputs, outputs)


def _write(inputs: PackedBatch, filled: Filled) -> None:
    _copy(inputs.ids, filled.ids)
    _copy(inputs.cu_seqlens, filled.cu_seqlens)
    if inputs.type_ids is not None and filled.type_ids is not None:
        _copy(inputs.type_ids, filled.type_ids.astype(np.int32))


def _copy(target: Tensor, values: npt.NDArray[np.int32]) -> None:
    host = torch.from_numpy(values)
    target.copy_(host.pin_memory() if target.is_cuda else host, non_blocking=True)
