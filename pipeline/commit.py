"""Outputs → columns → parts: built, quarantined and committed in a thread beside the device."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from pipeline.blocks import QUEUED_BYTES
from pipeline.encode import Computed
from pipeline.encoder.engine import Engine
from pipeline.errors import BeiJobsError, InputError
from pipeline.known_rows import Duplicates, Origin
from pipeline.open_output import OpenOutput, Saved, UnsafeRows
from pipeline.output.manifest import retract_if_unwanted
from pipeline.output.open_shards import AttemptLog, delete_pieces, write_piece
from pipeline.output.output import Output
from pipeline.output.part_file import encode_part
from pipeline.output.provenance import of_run, of_shard
from pipeline.output.quarantine import match_quarantine, write_quarantine
from pipeline.output.run import Run
from pipeline.part_rows import RowBuilder
from pipeline.prefetch import BytesQueue
from pipeline.shards import Shard, ShardResult
from pipeline.slices import Fate, ShardSlice, computed_slices, unchanged
from pipeline.stage_times import Lap, stage_times
from pipeline.tasks.base import Task

logger = logging.getLogger(__name__)

# How much work may be lost with a process.
SAVE_SECONDS = 20.0

# Computed blocks that wait for their columns to be built: how far the device may run ahead.
_BLOCKS_BEHIND = 2


class Committer:
    """Takes computed rows, commits each shard when its last row is there, reports the results.

    What is computed of open shards is saved every SAVE_SECONDS and at the end.
    """

    def __init__(
        self,
        output: Output,
        run: Run,
        engine: Engine,
        task: Task,
        attempt: str,
        duplicates: Duplicates,
        *,
        saved: Saved | None = None,
        refused: Mapping[str, Mapping[int, str]] | None = None,
        log: AttemptLog | None = None,
        tokenizer: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Prepare; entering the context starts the thread.

        Args:
            output: where the parts go.
            run: of the shards.
            engine: what computed the rows.
            task: makes the columns.
            attempt: the id of this attempt.
            duplicates: holds the results of blocks for later ones.
            saved: shard id → pieces of earlier attempts with their rows.
            refused: shard id → row → why it is not computed.
            log: the records of this attempt; they are deleted when their rows are safe.
            tokenizer: what tokenized the rows so far, if not the one of this process.
        """
        self._output = output
        self._run = run
        self._rows = RowBuilder(run, task, duplicates)
        self._attempt = attempt
        self._saved = saved or {}
        self._refused = refused or {}
        self._log = log
        self._tokenizer = tokenizer
        self._provenance = of_run(run, engine, attempt)
        self._lap = Lap(stage_times, lambda: engine.padding)
        self._shards: dict[str, OpenOutput] = {}
        self._unsafe = UnsafeRows()
        self._pieces = itertools.count()
        self._last_save = self._last_asked = time.monotonic()
        self._blocks: queue.Queue[Computed | None] = BytesQueue(
            _BLOCKS_BEHIND, QUEUED_BYTES, lambda item: 0 if item is None else item.nbytes
        )
        self._results: queue.Queue[ShardResult] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="commit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def add(self, computed: Computed) -> None:
        """Hand over computed rows; waits while the thread is too far behind."""
        while True:
            self._raise()
            try:
                return self._blocks.put(computed, timeout=1)
            except queue.Full:
                continue  # check for an error of the thread again

    def save_now(self) -> bool:
        """Whether rows of incomplete blocks should be handed over too; True once each interval."""
        moment = time.monotonic()
        if moment - self._last_asked < SAVE_SECONDS:
            return False
        self._last_asked = moment
        return True

    def finished(self) -> list[ShardResult]:
        """Shards that ended since the last call."""
        results = []
        while not self._results.empty():
            results.append(self._results.get())
        return results

    def close(self) -> list[ShardResult]:
        """Wait for the last commit; returns the shards that ended since `finished`."""
        self._stop()
        self._raise()
        return self.finished()

    def _stop(self) -> None:
        while self._thread.is_alive():
            try:
                self._blocks.put(None, timeout=0.1)
                self._thread.join()
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (item := self._blocks.get()) is not None:
                with stage_times.during("commit"):
                    self._process(item)
                # Rows of an incomplete block come because `save_now` asked for them.
                if not item.complete or time.monotonic() - self._last_save > SAVE_SECONDS:
                    self._save_all()
                del item  # not held while the next one is computed
            self._save_all()
        except BaseException as error:  # raised in the caller's thread by its next call
            self._error = error

    def _process(self, computed: Computed) -> None:
        block = computed.block
        self._unsafe.expect(block)
        rows = self._rows.build(computed)
        start = 0
        for item in computed_slices(block.slices):
            of_slice = rows.slice(start, len(item.numbers))
            if of_slice.new.any():
                self._open(item.shard).add(item, of_slice)
                self._unsafe.added(block, item.shard.id, int(of_slice.new.sum()))
            start += len(item.numbers)
        if computed.complete:
            for item in block.slices:
                self._end_slice(item)

    def _open(self, shard: Shard) -> OpenOutput:
        if shard.id not in self._shards:
            self._shards[shard.id] = OpenOutput(shard, self._saved.get(shard.id, ()))
        return self._shards[shard.id]

    def _end_slice(self, item: ShardSlice) -> None:
        """Take what is not computed of a slice; if it is the last one, end its shard."""
        output = self._open(item.shard)
        if item.fate is Fate.REFUSED and item.rows is not None:
            self._add_refused(output, item)
        elif item.fate is Fate.SAVED:
            output.add_saved(item)
        if not item.last:
            return
        if item.error is not None or output.complete:
            self._results.put(self._finish(item, output))
        else:
            self._save(output)  # some of its rows are held back
        del self._shards[item.shard.id]

    def _add_refused(self, output: OpenOutput, item: ShardSlice) -> None:
        reasons = self._refused[item.shard.id]
        errors = {row: reasons[int(number)] for row, number in enumerate(item.numbers)}
        output.add(item, self._rows.refused(item, errors))

    def _finish(self, last_slice: ShardSlice, output: OpenOutput) -> ShardResult:
        """Commit the shard that `last_slice` ends; an error becomes its result."""
        shard = last_slice.shard
        try:
            if last_slice.error is not None:
                self._save(output)
                raise last_slice.error
            return self._commit(output)
        except pa.ArrowException as caught:
            error = InputError(
                f"its output cannot be written: {caught}",
                hint="omit the column that the message names from --keep",
            )
            return self._failed(shard, output, error)
        except BeiJobsError as error:
            return self._failed(shard, output, error)

    def _failed(self, shard: Shard, output: OpenOutput, error: BeiJobsError) -> ShardResult:
        return ShardResult(
            shard.id, shard.part, shard.rows, seconds=output.seconds, computed=False,
            error=f"{shard}: {error}", hint=error.hint, transient=error.transient,
            kind=type(error).__name__,
        )  # fmt: skip

    def _commit(self, output: OpenOutput) -> ShardResult:
        shard, table = output.shard, output.table()
        result = ShardResult(
            shard.id,
            shard.part,
            table.num_rows,
            tokens=int(np.sum(table["n_tokens"].to_numpy(), dtype=np.int64)),
            truncated=int(np.sum(table["truncated"].to_numpy())),
            failed=len(table) - table["error"].null_count,
            reused=output.count(Origin.REUSED, table),
            deduplicated=output.count(Origin.DUPLICATE, table),
            seconds=round(output.seconds, 3),
        )
        table, lost = self._run.form.to_part(table)
        result = replace(result, chunks=lost.chunks, cut=lost.cut)
        if result.failed:
            write_quarantine(self._output, self._run, shard, output.failed_rows())
        stages, padding = self._lap.take()
        values = self._provenance | of_shard(
            shard,
            result,
            resumed=output.resumed,
            tokenizer=self._tokenizer(),
            stages=stages,
            padding=padding,
        )
        data = encode_part(table, values, shard.output_format)
        del table  # a client of a store may copy the data once more
        committed_here = self._output.commit(shard.part, data)
        if committed_here:
            retract_if_unwanted(self._output, self._run, shard.part)
        elif result.failed:
            self._match_quarantine(shard)
        delete_pieces(self._output, output.pieces)
        self._end_records(shard)
        return replace(result, computed=committed_here)

    def _match_quarantine(self, shard: Shard) -> None:
        """Undo what was quarantined before another attempt committed the shard."""
        try:
            match_quarantine(self._output, self._run, shard)
        except (BeiJobsError, pa.ArrowException, OSError) as error:
            logger.warning("%s: its quarantine may hold rows that its part has: %s", shard, error)

    def _save_all(self) -> None:
        """Save what is computed of the open shards."""
        for output in self._shards.values():
            self._save(output)
        self._last_save = time.monotonic()

    def _save(self, output: OpenOutput) -> None:
        """Save the rows of an open shard that are not saved; where that fails, go on without."""
        shard = output.shard
        name = f"{self._attempt}-{next(self._pieces)}"
        values = {**self._provenance, "shard": shard.id, "seconds": round(output.seconds, 3)}
        try:
            if (table := output.unsaved()) is None:
                return
            if not unchanged(shard):  # then some rows may be of another version
                logger.warning("%s: its computed rows are not saved: the input changed", shard)
                return
            copied = output.unsaved_origins()
            piece = write_piece(
                self._output, shard, name, table, values,
                reused=copied[Origin.REUSED], duplicates=copied[Origin.DUPLICATE],
            )  # fmt: skip
            output.saved_as(piece)
        except (BeiJobsError, pa.ArrowException) as error:  # what is wrong, the commit will say
            logger.warning("%s: its computed rows are not saved: %s", shard, error)
            return
        self._end_records(shard)

    def _end_records(self, shard: Shard) -> None:
        for number in self._unsafe.safe(shard.id):
            if self._log is not None:
                self._log.end(str(number))
