"""Blocks → outputs: pack each block, keep the device busy, restore row order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.blocks import Block
from pipeline.encoder.engine import Engine
from pipeline.packing import Batch, gather, pack
from pipeline.spec import OnBatch
from pipeline.tasks.base import Float32Array, Task


class _Pending:
    """A block whose batches are being computed."""

    def __init__(self, block: Block, per_token: bool) -> None:
        self.block = block
        self._per_token = per_token
        self._sequences_left = len(block.tokens.lengths)
        self._firsts = np.unique(block.tokens.row_of, return_index=True)[1]
        self._outputs: Float32Array | None = None

    @property
    def complete(self) -> bool:
        return self._sequences_left == 0

    @property
    def outputs(self) -> Float32Array:
        """[S, width] or, for tasks with an output per token, [T, width], in block order."""
        if self._outputs is None:
            return np.zeros((0, 1), dtype=np.float32)
        return self._outputs

    def put(self, batch: Batch, result: Float32Array) -> int:
        """Copy the results of a batch to the positions of its sequences in the block.

        Returns:
            The number of rows whose first sequence is in the batch: so every row counts once.
        """
        tokens = self.block.tokens
        result = result.reshape(result.shape[0], -1)
        if self._outputs is None:
            size = tokens.ids.shape[0] if self._per_token else tokens.lengths.shape[0]
            self._outputs = np.empty((size, result.shape[1]), dtype=np.float32)
        if self._per_token:
            for start, stop, sequence in zip(
                batch.cu_seqlens[:-1], batch.cu_seqlens[1:], batch.sequences, strict=True
            ):
                first = tokens.offsets[sequence]
                self._outputs[first : first + stop - start] = result[start:stop]
        else:
            self._outputs[batch.sequences] = result
        self._sequences_left -= len(batch)
        return int(np.isin(batch.sequences, self._firsts, assume_unique=True).sum())


def encode(
    engine: Engine,
    blocks: Iterator[Block],
    task: Task,
    token_budget: int,
    should_stop: Callable[[], bool],
    on_batch: OnBatch,
) -> Iterator[tuple[Block, Float32Array]]:
    """Run every block through the engine; complete blocks are returned in order.

    Batches of consecutive blocks follow one another without a gap. Once `should_stop` returns
    true, no further batch is started, and incomplete blocks are not returned.
    """
    pending: deque[_Pending] = deque()

    def batches() -> Iterator[Batch]:
        for block in blocks:
            pending.append(_Pending(block, task.per_token))
            tokens = block.tokens
            for sequences in pack(tokens.lengths, token_budget):
                if should_stop():
                    return
                yield gather(tokens.ids, tokens.offsets, sequences, tokens.type_ids)

    def complete() -> Iterator[tuple[Block, Float32Array]]:
        while pending and pending[0].complete:
            first = pending.popleft()
            yield first.block, first.outputs

    for batch, result in engine.run(batches()):
        # Blocks without sequences are complete from the start and have no batch.
        yield from complete()
        on_batch(pending[0].put(batch, result), batch.tokens)
        yield from complete()
    yield from complete()
