"""Windows → outputs: pack each window, keep the device fed, put results back into row order."""

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
    """A window whose batches are on their way through the device."""

    def __init__(self, block: Block, per_token: bool) -> None:
        self.block = block
        self._per_token = per_token
        self._left = len(block.tokens.lengths)
        self._firsts = np.unique(block.tokens.row_of, return_index=True)[1]
        self._outputs: Float32Array | None = None

    @property
    def complete(self) -> bool:
        return self._left == 0

    @property
    def outputs(self) -> Float32Array:
        """[S, width] or, for tasks with an output a token, [T, width], in window order."""
        if self._outputs is None:
            return np.zeros((0, 1), dtype=np.float32)
        return self._outputs

    def put(self, batch: Batch, result: Float32Array) -> int:
        """Scatter a batch's results to where its sequences stand in the window.

        Returns:
            Rows whose first sequence was in the batch: summed up, every row counts once.
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
        self._left -= len(batch)
        return int(np.isin(batch.sequences, self._firsts, assume_unique=True).sum())


def encode(
    engine: Engine,
    blocks: Iterator[Block],
    task: Task,
    token_budget: int,
    should_stop: Callable[[], bool],
    on_batch: OnBatch,
) -> Iterator[tuple[Block, Float32Array]]:
    """Run every window through the engine; windows come back whole and in order.

    Batches of the next window follow those of the last without a gap. When `should_stop` says
    so, no further batch is started and windows that are not complete are not returned.
    """
    pending: deque[_Pending] = deque()

    def batches() -> Iterator[Batch]:
        for block in blocks:
            state = _Pending(block, task.per_token)
            pending.append(state)
            tokens = block.tokens
            for sequences in pack(tokens.lengths, token_budget):
                if should_stop():
                    return
                yield gather(tokens.ids, tokens.offsets, sequences, tokens.type_ids)

    def done() -> Iterator[tuple[Block, Float32Array]]:
        while pending and pending[0].complete:
            state = pending.popleft()
            yield state.block, state.outputs

    for batch, result in engine.run(batches()):
        # Windows without a sequence are complete from the start and have no batch.
        yield from done()
        on_batch(pending[0].put(batch, result), batch.tokens)
        yield from done()
    yield from done()
