"""Outputs → columns → parts: built, quarantined and committed in a thread beside the device."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from pipeline.blocks import Block, ShardSlice
from pipeline.encoder.engine import Engine
from pipeline.errors import BeiJobsError, InputError
from pipeline.output.manifest import retract_if_unwanted
from pipeline.output.output import Output
from pipeline.output.part_file import encode_part
from pipeline.output.provenance import of_run, of_shard
from pipeline.output.quarantine import write_quarantine
from pipeline.output.run import Run
from pipeline.packing import Int64Array
from pipeline.spec import ROW_COLUMNS, Shard, ShardResult
from pipeline.tasks.base import NON_FINITE, BoolArray, Float32Array, Task

# Computed blocks that wait for their columns to be built: how far the device may run ahead.
_BLOCKS_BEHIND = 2

FLOAT16_OVERFLOW = "a value of the vector is more than --output-dtype float16 can hold"


class _OpenShard:
    """The output of a shard whose last row is still to come."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._tables: list[pa.Table] = []
        self._failed_rows: list[pa.Table] = []
        self._rows = 0

    @property
    def seconds(self) -> float:
        """Seconds since the previous shard ended."""
        return time.monotonic() - self._started

    def add(self, shard_slice: ShardSlice, table: pa.Table, failed: BoolArray) -> None:
        """Append a slice's table; `failed` [rows] marks the rows that are quarantined as well."""
        if shard_slice.rows is None:
            return
        self._tables.append(table)
        if failed.any():
            # Row by row, because pyarrow cannot filter every type that may be kept.
            rows = [pa.table(shard_slice.rows).slice(row, 1) for row in np.flatnonzero(failed)]
            self._failed_rows.append(
                pa.concat_tables(rows)
                .append_column("bei_row", pa.array(self._row_numbers(shard_slice, failed)))
                .append_column("bei_error", table["error"].filter(pa.array(failed)))
            )
        self._rows += table.num_rows

    def _row_numbers(self, shard_slice: ShardSlice, failed: BoolArray) -> Int64Array:
        return np.flatnonzero(failed) + shard_slice.shard.first_row + self._rows

    def table(self) -> pa.Table:
        """All output rows in input order; they are released here."""
        tables, self._tables = self._tables, []
        return pa.concat_tables(tables)

    def failed_rows(self) -> pa.Table:
        """The input rows that failed, with `bei_row` and `bei_error`."""
        return pa.concat_tables(self._failed_rows)


class Committer:
    """Takes computed blocks, commits each shard when its last row is there, reports the results."""

    def __init__(self, output: Output, run: Run, engine: Engine, task: Task, attempt: str) -> None:
        self._output = output
        self._run = run
        self._task = task
        self._provenance = of_run(run, engine, attempt)
        self._schema = pa.schema([*run.kept, *task.fields(), *ROW_COLUMNS])
        self._shard = _OpenShard()
        self._blocks: queue.Queue[tuple[Block, Float32Array] | None] = queue.Queue(_BLOCKS_BEHIND)
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

    def add(self, block: Block, outputs: Float32Array) -> None:
        """Hand over a computed block; waits while the thread is too far behind."""
        while True:
            self._raise()
            try:
                return self._blocks.put((block, outputs), timeout=1)
            except queue.Full:
                continue  # check for an error of the thread again

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
                self._process(*item)
        except BaseException as error:  # raised in the caller's thread by its next call
            self._error = error

    def _process(self, block: Block, outputs: Float32Array) -> None:
        table, failed = self._columns(block, outputs)
        start = 0
        for shard_slice in block.slices:
            rows = 0 if shard_slice.rows is None else shard_slice.rows.num_rows
            self._shard.add(shard_slice, table.slice(start, rows), failed[start : start + rows])
            start += rows
            if shard_slice.last:
                self._results.put(self._finish(shard_slice))
                self._shard = _OpenShard()

    def _columns(self, block: Block, outputs: Float32Array) -> tuple[pa.Table, BoolArray]:
        """The output rows of a block, and which of them failed."""
        tokens = block.tokens
        errors = dict(tokens.errors)
        row_of_output = tokens.token_rows if self._task.per_token else tokens.row_of
        if self._run.spec.output_dtype == "float16":
            overflows = (np.abs(outputs) > np.finfo(np.float16).max).any(axis=1)
            errors |= {int(row): FLOAT16_OVERFLOW for row in np.unique(row_of_output[overflows])}
        finite = np.isfinite(outputs).all(axis=1)
        errors |= {int(row): NON_FINITE for row in np.unique(row_of_output[~finite])}
        failed = np.zeros(tokens.rows, dtype=np.bool_)
        failed[list(errors)] = True
        reasons = pa.array([errors.get(row) for row in range(tokens.rows)], pa.string())
        arrays = [
            *(block.rows.column(field.name) for field in self._run.kept),
            *self._task.columns(block.rows, tokens, outputs, failed),
            pa.array(tokens.n_tokens),
            pa.array(tokens.truncated),
            reasons,
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema), failed

    def _finish(self, last_slice: ShardSlice) -> ShardResult:
        """Commit the shard that `last_slice` ends; an error becomes its result."""
        shard = last_slice.shard
        try:
            if last_slice.error is not None:
                raise last_slice.error
            return self._commit(shard)
        except pa.ArrowException as caught:
            error = InputError(
                f"its output cannot be written: {caught}",
                hint="omit the column that the message names from --keep",
            )
            return self._failed(shard, error)
        except BeiJobsError as error:
            return self._failed(shard, error)

    def _failed(self, shard: Shard, error: BeiJobsError) -> ShardResult:
        return ShardResult(
            shard.id, shard.part, shard.rows, seconds=self._shard.seconds, computed=False,
            error=f"{shard}: {error}", hint=error.hint, transient=error.transient,
        )  # fmt: skip

    def _commit(self, shard: Shard) -> ShardResult:
        table = self._shard.table()
        result = ShardResult(
            shard.id,
            shard.part,
            table.num_rows,
            tokens=int(np.sum(table["n_tokens"].to_numpy(), dtype=np.int64)),
            truncated=int(np.sum(table["truncated"].to_numpy())),
            failed=len(table) - table["error"].null_count,
            seconds=round(self._shard.seconds, 3),
        )
        if result.failed:
            write_quarantine(self._output, self._run, shard, self._shard.failed_rows())
        values = self._provenance | of_shard(shard, result)
        data = encode_part(table, values)
        committed_here = self._output.commit(shard.part, data)
        if committed_here:
            retract_if_unwanted(self._output, self._run, shard.part)
        return replace(result, computed=committed_here)
