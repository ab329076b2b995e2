"""Blocks → outputs: pack each block, keep the device busy, restore row order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.blocks import Block, RowPlaces, Watch
from pipeline.encoder.engine import Engine
from pipeline.output.row_ranges import Places
from pipeline.outputs import Int64Array, Lists, Outputs
from pipeline.packing import Batch
from pipeline.spec import OnBatch
from pipeline.stage_times import stage_times
from pipeline.tasks.base import BoolArray, Float32Array, Task
from pipeline.tokenize.outputs import output_bounds


@dataclass(frozen=True, slots=True)
class Computed:
    """Rows of a block whose outputs are there."""

    block: Block
    outputs: Outputs  # of the sequences or, with an output per token or span, of these; block order
    rows: BoolArray  # [U] the tokenized rows that are new since the block was last returned
    complete: bool  # whether these are the last ones

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.block.nbytes + self.outputs.nbytes


class _Pending:
    """A block whose batches are being computed."""

    def __init__(self, block: Block, task: Task) -> None:
        self.block = block
        self._bounds = output_bounds(block.tokens, per_token=task.per_token)
        self._scorer = task.scorer(block.tokens)
        row_of = block.tokens.row_of
        self._sequences_left = len(block.tokens.lengths)
        self._left_of_row = np.bincount(row_of, minlength=block.tokens.rows)
        self._outputs: Float32Array | None = None
        self._lists: dict[str, list[tuple[Int64Array, Lists]]] = {}
        self._returned = np.zeros(block.tokens.rows, dtype=np.bool_)
        self._places = RowPlaces(block.slices)
        sharing = block.results.sharing()
        # [S] how many rows count as done with a sequence: those of a row's first one
        self._rows_of_sequence = np.where(np.diff(row_of, prepend=-1) > 0, sharing[row_of], 0)
        self.copied = len(block.results.keys) - int(sharing.sum())

    @property
    def complete(self) -> bool:
        return self._sequences_left == 0

    def take(self) -> Computed:
        """The rows that were completed since the last call."""
        new = (self._left_of_row == 0) & ~self._returned
        self._returned |= new
        rows = self._outputs
        if rows is None:
            rows = np.zeros((0, 1), dtype=np.float32)
        sequences = len(self.block.tokens.lengths)
        lists = {kind: Lists.placed(sequences, parts) for kind, parts in self._lists.items()}
        return Computed(self.block, Outputs(rows, lists), new, self.complete)

    def places_of(self, batch: Batch) -> Places:
        """The rows that have a sequence in the batch."""
        rows = np.sort(self.block.tokens.row_of[batch.sequences])
        rows = rows[np.diff(rows, prepend=-1) > 0]
        return self._places.of(self.block.results.computed[rows])

    def put(self, batch: Batch, outputs: Outputs) -> int:
        """Copy the results of a batch to the positions of its sequences in the block.

        Returns:
            The number of rows whose first sequence is in the batch, duplicates included: so every
            row counts once.
        """
        if self._scorer is not None:
            outputs = self._scorer(batch, outputs)
        tokens, result = self.block.tokens, outputs.rows
        if result.ndim == 1:  # of a single class
            result = result[:, None]
        for kind, lists in outputs.lists.items():
            self._lists.setdefault(kind, []).append((batch.sequences, lists))
        if self._outputs is None:
            size = len(tokens.lengths) if self._bounds is None else self._bounds[-1]
            self._outputs = np.zeros((size, result.shape[1]), dtype=np.float32)
        if self._bounds is not None:
            bounds = batch.cu_seqlens if batch.spans is None else batch.spans.bounds
            for start, stop, sequence in zip(bounds[:-1], bounds[1:], batch.sequences, strict=True):
                first = self._bounds[sequence]
                self._outputs[first : first + stop - start] = result[start:stop]
        else:
            self._outputs[batch.sequences] = result
        self._sequences_left -= len(batch)
        np.subtract.at(self._left_of_row, tokens.row_of[batch.sequences], 1)
        return int(self._rows_of_sequence[batch.sequences].sum())


def _complete(pending: deque[_Pending], on_batch: OnBatch) -> Iterator[Computed]:
    """The blocks that are complete, from the first on; their copied rows count as done."""
    while pending and pending[0].complete:
        one = pending.popleft()
        if one.copied:
            on_batch(one.copied, 0)
        yield one.take()


def _incomplete(pending: deque[_Pending]) -> Iterator[Computed]:
    """What there is of the other blocks."""
    for one in pending:
        if (computed := one.take()).rows.any():
            yield computed


def encode(
    engine: Engine,
    blocks: Iterator[Block],
    task: Task,
    token_budget: int,
    should_stop: Callable[[], bool],
    on_batch: OnBatch,
    *,
    watch: Watch | None = None,
    save_now: Callable[[], bool] = lambda: False,
) -> Iterator[Computed]:
    """Run every block through the engine; every row is returned once, blocks in order.

    Batches of consecutive blocks follow one another without a gap. A block is returned when it is
    complete, and what there is of it when it is time to save, or at the end. Once `should_stop`
    returns true, no further batch is started.

    Args:
        engine: computes the batches.
        blocks: consumed ahead of the results.
        task: says what there is an output of, and what becomes of it before it is kept.
        token_budget: tokens per batch.
        should_stop: called before each batch.
        on_batch: called with the rows and tokens of each computed batch, and with rows that are
            copied and no tokens.
        watch: told about the rows of each batch while the device has it.
        save_now: whether what is computed should be returned, also of an incomplete block.
    """
    pending: deque[_Pending] = deque()
    launched: deque[str] = deque()

    def batches() -> Iterator[Batch]:
        for block in stage_times.each("wait", blocks):
            pending.append(one := _Pending(block, task))
            tokens = block.tokens
            for index, sequences in enumerate(tokens.packed(token_budget)):
                if should_stop():
                    return
                batch = tokens.batch(sequences)
                launched.append(f"batch-{block.number}-{index}")
                if watch is not None:
                    watch.begin(launched[-1], one.places_of(batch))
                stage_times.begin("compute")
                yield batch

    for batch, result in engine.run_all(batches()):
        stage_times.end("compute")
        # Blocks without sequences are complete from the start and have no batch.
        yield from _complete(pending, on_batch)
        on_batch(pending[0].put(batch, result), batch.tokens)
        if watch is not None:
            watch.end(launched.popleft())
        yield from _complete(pending, on_batch)
        if save_now():
            yield from _incomplete(pending)
    yield from _complete(pending, on_batch)
    yield from _incomplete(pending)
