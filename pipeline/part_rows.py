"""Computed outputs → the output rows of a block: columns that pass through, results, row keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.blocks import Block
from pipeline.encode import Computed
from pipeline.input.where import where_columns
from pipeline.known_rows import Duplicates, RowResults, result_schema
from pipeline.output.readable import invalid_rows, readable
from pipeline.output.run import Run
from pipeline.output.source_columns import SOURCE_FIELDS, source_columns
from pipeline.outputs import Outputs
from pipeline.packing import Int8Array
from pipeline.part_columns import CUT_FIELD
from pipeline.row_keys import KEY_FIELD, row_keys
from pipeline.slices import ShardSlice, computed_slices
from pipeline.tasks.base import NON_FINITE, BoolArray, Task
from pipeline.tokenize.outputs import output_rows
from pipeline.tokenize.tokens import no_tokens


def held_schema(run: Run, task: Task) -> pa.Schema:
    """The columns of the rows of a run as they are held; see `pipeline.output.chunk_rows`."""
    last = [KEY_FIELD] if run.keyed else []
    return pa.schema([*run.kept, *result_schema(task), *last])


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Output rows of a block, R of them."""

    table: pa.Table
    new: BoolArray  # [R] which of them are there for the first time
    failed: BoolArray  # [R] which of them are quarantined; those to come may be marked too
    origin: Int8Array  # [R] values of Origin

    def slice(self, start: int, count: int) -> OutputRows:
        """Some consecutive rows."""
        at = np.s_[start : start + count]
        table = self.table.slice(start, count)
        return OutputRows(table, self.new[at], self.failed[at], self.origin[at])


class RowBuilder:
    """Builds the output rows of the blocks of a run, in their order."""

    def __init__(self, run: Run, task: Task, duplicates: Duplicates) -> None:
        self._run = run
        self._task = task
        self._duplicates = duplicates
        self._results = result_schema(task)
        self._schema = held_schema(run, task)

    def build(self, computed: Computed) -> OutputRows:
        """The output rows of a block, or of what is there of it."""
        block = computed.block
        of = block.results
        results = own = self._computed(computed)
        new = computed.rows
        if not of.plain:
            # What is copied is added with the last rows of the block.
            new = np.full(len(of.keys), computed.complete)
            here = of.source < len(own)
            new[here] = computed.rows[of.source[here]]
            results = self._with_copies(own, of, computed.complete)
        if computed.complete:
            self._duplicates.store(block.number, own)
        results = _with_errors(results, invalid_rows(block.rows, self._read_beside(block)))
        failed = results["error"].is_valid().to_numpy(zero_copy_only=False)
        table = self._table(block, computed_slices(block.slices), results)
        return OutputRows(table, new, failed, of.origin)

    def _read_beside(self, block: Block) -> list[str]:
        """The columns that pass through, and those that select rows."""
        where = block.slices[0].shard.file.where if block.slices else ""
        return [*dict.fromkeys([*self._run.passing.names, *where_columns(where)])]

    def refused(self, item: ShardSlice, reasons: dict[int, str]) -> OutputRows:
        """Rows that are not computed, with the reason for each."""
        assert item.rows is not None
        rows, everything = item.rows, np.ones(len(item.numbers), dtype=np.bool_)
        keys = row_keys(rows, self._task.columns_read(self._run.spec))
        results = RowResults.all_computed(keys)
        block = Block((item,), rows, rows, no_tokens(len(everything), reasons), results)
        nothing = Outputs(np.zeros((0, 1), dtype=np.float32))
        table = self._computed(Computed(block, nothing, everything, complete=True))
        return OutputRows(self._table(block, [item], table), everything, everything, results.origin)

    def _table(self, block: Block, slices: Sequence[ShardSlice], results: pa.Table) -> pa.Table:
        arrays = _sources(slices) if self._run.spec.source_columns else []
        arrays += [readable(block.rows.column(field.name)) for field in self._run.passing]
        arrays += results.columns
        if self._run.keyed:
            arrays.append(block.results.keys)
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _with_copies(self, results: pa.Table, of: RowResults, complete: bool) -> pa.Table:
        """The results of all rows; those that come from an unfinished block are not looked at."""
        tables = [results, *of.copied]
        source = of.source
        if of.earlier is not None and len(of.earlier):
            first = len(results) + sum(len(table) for table in of.copied)
            if complete:
                tables += self._earlier(of)
            else:
                source = np.where(source < first, source, 0)
        if not sum(map(len, tables)):  # nothing is there yet
            return _nulls(self._results, len(source))
        return pa.concat_tables(tables).combine_chunks().take(pa.array(source))

    def _earlier(self, of: RowResults) -> list[pa.Table]:
        """The results of duplicates of earlier blocks, one row each, in their order."""
        assert of.earlier is not None
        numbers, rows = of.earlier[:, 0], of.earlier[:, 1]
        order = np.argsort(numbers, kind="stable")
        tables = [
            self._duplicates.results(int(number)).take(pa.array(rows[numbers == number]))
            for number in np.unique(numbers)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return [pa.concat_tables(tables).combine_chunks().take(pa.array(back))]

    def _computed(self, computed: Computed) -> pa.Table:
        """The results of the tokenized rows of a block; null for those to come.

        Rows that were returned before are there again when the block is complete: its results
        are held for duplicates.
        """
        block, outputs, tokens = computed.block, computed.outputs, computed.block.tokens
        errors = dict(tokens.errors)
        row_of_output = output_rows(tokens, per_token=self._task.per_token)
        if outputs.rows.shape[0] != row_of_output.shape[0]:  # no batch of the block is computed
            rows = np.zeros((row_of_output.shape[0], outputs.rows.shape[1]), dtype=np.float32)
            outputs = Outputs(rows, outputs.lists)
        errors |= self._task.problems(tokens, outputs)
        finite = outputs.finite()
        errors |= {int(row): NON_FINITE for row in np.unique(row_of_output[~finite])}
        failed = np.zeros(tokens.rows, dtype=np.bool_)
        failed[list(errors)] = True
        absent = failed if computed.complete else failed | ~computed.rows
        reasons = pa.nulls(tokens.rows, pa.string())
        if errors:
            reasons = pa.array([errors.get(row) for row in range(tokens.rows)], pa.string())
        arrays = [
            *self._task.all_columns(block.texts, tokens, outputs, absent),
            pa.array(tokens.n_tokens),
            pa.array(tokens.truncated),
            reasons,
            pa.array(np.zeros(tokens.rows, np.int32) if tokens.cut is None else tokens.cut),
        ]
        return pa.Table.from_arrays(arrays, schema=self._results)


def _sources(slices: Sequence[ShardSlice]) -> list[pa.ChunkedArray]:
    """The columns that say where each row is from, one chunk per slice."""
    columns = (source_columns(item.shard.file, item.rows_in_file) for item in slices)
    chunks = zip(*columns, strict=True) if slices else ([], [])
    return [pa.chunked_array(c, f.type) for c, f in zip(chunks, SOURCE_FIELDS, strict=True)]


def _with_errors(results: pa.Table, reasons: dict[int, str]) -> pa.Table:
    """The results without those of some rows, which are errors for a reason besides their texts."""
    if not reasons:
        return results
    rows = [None if row in reasons else row for row in range(len(results))]
    errors = results["error"].to_pylist()
    errors = [error or reasons.get(row) for row, error in enumerate(errors)]
    table = results.take(pa.array(rows, pa.int64()))
    counts = {name: results[name] for name in ("n_tokens", "truncated", CUT_FIELD.name)}
    for name, column in (counts | {"error": pa.array(errors, pa.string())}).items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def _nulls(schema: pa.Schema, rows: int) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)
