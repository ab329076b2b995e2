"""What a run would do and cost, before anything is written: `bei-jobs plan`.

Rows and tokens are counted as the run will count them (`pipeline.output.status`). Texts are read
once, and only those of shards without a part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import StorageError
from pipeline.input.reading import read
from pipeline.known_rows import rows_held
from pipeline.output.copies import Copies, Source, read_copies, read_errors
from pipeline.output.manifest import PARTS_SCHEMA, list_parts, newest_finished
from pipeline.output.plan import Plan
from pipeline.output.record import Changes
from pipeline.output.run import Run, kept_schema, passing_schema
from pipeline.output.source_columns import SOURCE_BYTES
from pipeline.planning.count_rows import BoolArray, Counter, Repeats, Totals
from pipeline.planning.draft import Draft
from pipeline.planning.match_rows import Found, find_rows, parts_to_search
from pipeline.prefetch import map_in_order
from pipeline.shards import Shard
from pipeline.store.directory import ObjectInfo
from pipeline.tasks import find_task, make_task

# Rows that a run tokenizes as one block share their results in any case.
_BLOCK_ROWS = 16_384
# Shards of which the kept columns are read to know their size, and how many rows.
_KEPT_SHARDS, _KEPT_ROWS = 4, 1024
# What a part describes itself with.
_PART_BYTES = 5 << 10
# A sample of long texts has fewer rows.
_SAMPLE_BYTES, _SAMPLE_READ_ROWS = 64 << 20, 1024
# Parts that are read at once, and whose good rows are remembered, one byte a row.
_THREADS, _PARTS_HELD = 16, 1024

_NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (), exact=True)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do. The counts of rows and `tokens` are those that it would report."""

    files: int  # of the plan, and skipped ones
    unchanged: int  # files
    changes: Changes  # as the run would record them
    rows: int
    read: int  # rows of shards without a part
    computed: int
    reused: int
    deduplicated: int
    failed: int
    tokens: int
    tokens_low: int  # the 95 % interval of `tokens`
    tokens_high: int
    tokens_computed: int  # of the rows that would be computed
    exact: bool  # whether every text was tokenized
    truncated: int
    cut: int | None  # tokens of truncated rows; None: not known of those of earlier parts
    chunks: int  # rows of the output, where each chunk of a text has one
    blank: int  # rows without text, of those that are read
    lengths: tuple[tuple[int, int], ...]  # at most so many tokens, rows to compute; ascending
    shards: int
    missing: int  # shards without a part
    bytes: int  # of all parts
    sample: tuple[tuple[Shard, BoolArray], ...]  # shards, and which of their rows to compute


def estimate(
    draft: Draft,
    precision: str,
    *,
    exact: bool = False,
    on_rows: Callable[[int, int], None] = lambda rows, tokens: None,
) -> Estimate:
    """Count what the run of a draft would do.

    Args:
        draft: of the run.
        precision: in which the run computes: other parts are not copied.
        exact: tokenize every text, however many there are.
        on_rows: called with the number of rows that were just read, and their tokens.

    Raises:
        OutputConflict: the output holds another job's results.
        InputError, InputChanged, StorageError: a file or a part cannot be read.
    """
    output, plan = draft.output, draft.plan
    stored_format = output.could_claim(draft.spec, draft.schema)
    committed = output.committed()
    missing = plan.missing(committed)
    run = draft.run(stored_format)
    assert run.record is not None
    changes = run.record.changes
    there = _committed_parts(draft, committed, set(missing))
    totals = _NOTHING
    sample: tuple[tuple[Shard, BoolArray], ...] = ()
    if missing:
        counter = _counter(draft, plan.table["rows"].take(pa.array(missing)), exact, on_rows)
        reuse = _Reuse(draft, run, precision, committed)
        for found in reuse.find(plan.shards(missing), counter):
            counter.found(found, reuse.among(found))
        totals, sample = counter.totals(draft.spec.max_length), counter.sample
    tokens = totals.tokens + _total(there, "tokens")
    failed = _total(there, "failed")
    return Estimate(
        files=run.files,
        unchanged=len(plan.files) - changes.new - changes.changed - changes.renamed,
        changes=changes,
        rows=plan.rows,
        read=totals.rows,
        computed=totals.computed,
        reused=totals.reused + _total(there, "rows") - failed,
        deduplicated=totals.deduplicated,
        failed=totals.failed + failed,
        tokens=tokens,
        tokens_low=max(0, tokens - totals.tokens_error),
        tokens_high=tokens + totals.tokens_error,
        tokens_computed=totals.tokens_computed,
        exact=totals.exact,
        truncated=totals.truncated + _total(there, "truncated"),
        cut=None if there["cut"].null_count else totals.cut + _total(there, "cut"),
        chunks=(totals.chunks if draft.spec.has_chunk_rows else 0) + _total(there, "chunks"),
        blank=totals.blank,
        lengths=totals.lengths,
        shards=len(plan),
        missing=len(missing),
        bytes=_total(there, "bytes") + _new_bytes(draft, len(missing), totals),
        sample=sample,
    )


def sample_rows(draft: Draft, estimated: Estimate, limit: int) -> pa.RecordBatch:
    """Up to `limit` rows that would be computed, for a measurement: what the task reads of them."""
    columns, shards = draft.columns_read, estimated.sample
    batches: list[pa.RecordBatch] = []
    size = 0
    for shard, wanted in shards:
        rows = np.flatnonzero(wanted)
        if len(rows) > limit // len(shards):
            rows = rows[np.linspace(0, len(rows) - 1, limit // len(shards)).astype(np.int64)]
        first = 0
        for _, batch in read(shard.file, [shard.cut], columns, _SAMPLE_READ_ROWS):
            inside = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
            batches.append(batch.take(pa.array(inside)))
            first, size = first + batch.num_rows, size + batches[-1].nbytes
            if size > _SAMPLE_BYTES:
                break
    return pa.Table.from_batches(batches, columns).combine_chunks().to_batches()[0]


def _counter(
    draft: Draft, rows: pa.ChunkedArray, exact: bool, on_rows: Callable[[int, int], None]
) -> Counter:
    task = make_task(draft.spec, draft.card, load_tokenizer(draft.card))
    held = max(_BLOCK_ROWS, rows_held(task.row_bytes(draft.request, draft.card)))
    return Counter(task, pc.sum(rows).as_py(), Repeats(held), exact=exact, on_rows=on_rows)


class _Reuse:
    """Says which rows would be copied from parts that are there.

    A run that is joined copies what was found when it was planned.
    """

    def __init__(
        self, draft: Draft, run: Run, precision: str, committed: dict[str, ObjectInfo]
    ) -> None:
        self._draft = draft
        self._precision = precision
        self._run = run
        self._joined = draft.joined()
        others = draft.reused_outputs(run.format)
        search = others is not None and self._joined is None
        self._sources = parts_to_search(draft.plan, committed, others or ()) if search else []
        self._good_rows = lru_cache(_PARTS_HELD)(self._read)

    def find(self, shards: Iterator[Shard], counter: Counter) -> Iterator[Found]:
        draft = self._draft
        return find_rows(
            draft.output,
            shards,
            draft.columns_read,
            draft.texts,
            self._sources,
            on_rows=counter.read,
        )

    def among(self, found: Found) -> BoolArray:
        """Which rows are copied, [R]."""
        if self._joined is None:
            return self._copied(Copies(tuple(self._sources), found.source, found.row))
        reused = np.zeros(len(found.keys), dtype=np.bool_)
        if self._joined[0].matched:
            for shard, at in found.of_shards():
                if copies := read_copies(self._draft.output, self._joined[0], shard):
                    reused[at] = self._copied(copies)
        return reused

    def _copied(self, copies: Copies) -> BoolArray:
        """Which rows have a good one in a part that was computed in the same way."""
        copied = np.zeros(len(copies.source), dtype=np.bool_)
        order = np.argsort(copies.source, kind="stable")
        numbers, starts = np.unique(copies.source[order], return_index=True)
        rows_of = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))
        rows_of.pop(-1, None)

        def good(number: int) -> tuple[int, BoolArray]:
            return number, self._good_rows(copies.sources[number])

        for number, good_rows in map_in_order(good, iter(rows_of), _THREADS):
            at, row = rows_of[number], copies.row[rows_of[number]]
            there = row < len(good_rows)
            copied[at[there]] = good_rows[row[there]]
        return copied

    def _read(self, source: Source) -> BoolArray:
        """Which rows of a part are good; none of one that cannot be copied."""
        try:
            errors = read_errors(self._run, source, self._precision)
        except StorageError:
            errors = None
        if errors is None:
            return np.zeros(0, dtype=np.bool_)
        good: BoolArray = pc.is_null(errors).to_numpy()
        return good


def _committed_parts(draft: Draft, committed: dict[str, ObjectInfo], missing: set[int]) -> pa.Table:
    """The parts of the plan that are there, with the columns of PARTS_SCHEMA."""
    plan = draft.plan
    there = [index for index in range(len(plan)) if index not in missing]
    if not there:
        return PARTS_SCHEMA.empty_table()
    return list_parts(draft.output, Plan(plan.files, plan.table.take(pa.array(there))), committed)


def _total(parts: pa.Table, name: str) -> int:
    return int(pc.sum(parts[name]).as_py() or 0)


def _new_bytes(draft: Draft, parts: int, totals: Totals) -> int:
    """Estimated bytes of the parts to come: as in the last finished run, or by their columns."""
    if not (rows := totals.rows):
        return 0
    finished = newest_finished(draft.output)
    if finished and finished[0].kept == kept_schema(draft.spec, draft.schema):
        return round(finished[1].bytes / finished[1].rows * rows)
    task = find_task(draft.spec.task)
    token_bytes = task.token_bytes(draft.request, draft.card) * totals.tokens
    # Where each token adds bytes, those of a row alone are its most.
    results = 0 if token_bytes else task.row_bytes(draft.request, draft.card)
    row_bytes = results + _kept_bytes(draft)
    written = totals.chunks if draft.spec.has_chunk_rows else rows
    return round(row_bytes * written + token_bytes) + parts * _PART_BYTES


def _kept_bytes(draft: Draft) -> float:
    """Bytes of the kept columns of a row, by the first rows of a few shards."""
    kept = passing_schema(draft.spec, draft.schema)
    names = [name for name in kept.names if name != draft.spec.id_column]
    source = SOURCE_BYTES if draft.spec.source_columns else 0
    if not names:
        return source
    columns = pa.schema([kept.field(name) for name in names])
    size = rows = 0
    shards = range(len(draft.plan))
    chosen = random.Random(0).sample(shards, min(_KEPT_SHARDS, len(shards)))
    for shard in draft.plan.shards(sorted(chosen)):
        batch = next(read(shard.file, [shard.cut], columns, _KEPT_ROWS), None)
        if batch is not None:
            size, rows = size + batch[1].nbytes, rows + batch[1].num_rows
    return source + (size / rows if rows else 0.0)
