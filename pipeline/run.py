"""The main path: shards in, committed parts out. `run_shards` names every stage, in order.

Stages run concurrently, connected by bounded queues: one thread reads and tokenizes ahead of the
device, the caller's thread feeds the device, one thread builds and commits parts. Memory is bounded
by the size of blocks and shards, never by the input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa

from pipeline.blocks import QUEUED_BYTES, NoWatch, Watch, read_blocks
from pipeline.commit import Committer
from pipeline.encode import encode
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import StorageError
from pipeline.known_rows import Duplicates, EarlierParts, KnownRows
from pipeline.open_output import Saved
from pipeline.output.open_shards import OPEN, ROW_FIELD, AttemptLog, Piece, read_piece_table
from pipeline.output.output import Output
from pipeline.output.repaired import read_good_rows
from pipeline.output.row_ranges import Places
from pipeline.output.run import Run
from pipeline.output.suspects import ShardWork
from pipeline.packing import Int8Array
from pipeline.part_rows import held_schema
from pipeline.prefetch import prefetch
from pipeline.proven_tokens import ProvenTokens
from pipeline.shards import Shard, ShardResult
from pipeline.slices import Fate
from pipeline.spec import OnBatch
from pipeline.tasks import Task, make_task

logger = logging.getLogger(__name__)

# Tokenized blocks that wait for the device.
_BLOCKS_AHEAD = 2
# Blocks tokenized at once for a GPU. `tokenizers` uses every core without Python's lock, then ids
# are copied under the lock (80 of 1,800 ns per token): with two threads, one copies while the
# other tokenizes.
_GPU_TOKENIZING_THREADS = 2


def run_shards(
    run: Run,
    shards: Sequence[Shard],
    engine: Engine,
    output: Output,
    *,
    attempt: str,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: OnBatch = lambda rows, tokens: None,
    works: Mapping[str, ShardWork] | None = None,
    watch: Watch | None = None,
    duplicates: Duplicates | None = None,
    task: Task | None = None,
    proven: ProvenTokens | None = None,
) -> Iterator[ShardResult]:
    """Compute shards and commit each part as soon as its last row is computed.

    A shard that cannot be read or written becomes a result with `error`; the others continue.
    Once `should_stop` returns true, the work ends between two batches: committed parts are kept,
    what is computed of the remaining shards is saved, and they yield nothing.

    Args:
        run: the run the shards belong to.
        shards: in input order; consecutive shards of one file share one reader.
        engine: the resident encoder.
        output: where the parts go.
        attempt: the id of this attempt, stored in every part that it commits.
        should_stop: called before each batch.
        on_batch: called with the rows and tokens of each computed batch.
        works: shard id → what not to compute of it. A shard with rows that are held back is saved
            and yields nothing.
        watch: told which rows are being tokenized and computed.
        duplicates: results of earlier calls for the same run and engine.
        task: of the run, bound to the engine's model; None to bind it now.
        proven: tokenizes the rows in place of the task; None for nothing.

    Raises:
        EncodeError: the device failed in a way that a smaller batch does not fix.
        StorageError: the output cannot be written.
    """
    task = task or make_task(run.spec, engine.card, load_tokenizer(engine.card))
    budget = run.spec.token_budget or engine.token_budget
    threads = _GPU_TOKENIZING_THREADS if engine.device.startswith("cuda") else 1
    special = works or {}
    saved = _read_saved(output, run, task, engine, special)
    fates = {shard: _fates(work, saved) for shard, work in special.items()}
    refused = {shard: work.refused for shard, work in special.items()}
    held = duplicates or Duplicates()
    earlier = EarlierParts(output, run, task, engine.precision)
    known = KnownRows(task.columns_read(run.spec), earlier, held)
    with closing(AttemptLog(output, run, attempt)) as log:
        recorded = _Recorded(log, watch or NoWatch())
        tokenized = read_blocks(
            run, shards, task, engine.memory_size, known,
            threads=threads, fates=fates, watch=recorded,
            tokenize=None if proven is None else proven.tokenize,
        )  # fmt: skip
        committer = Committer(
            output, run, engine, task, attempt, held, saved=saved, refused=refused, log=log,
            tokenizer=lambda: None if proven is None else proven.used,
        )  # fmt: skip
        waiting = prefetch(tokenized, _BLOCKS_AHEAD, QUEUED_BYTES, lambda block: block.nbytes)
        with committer, waiting as ahead:
            for computed in encode(
                engine, ahead, task, budget, should_stop, on_batch,
                watch=recorded, save_now=committer.save_now,
            ):  # fmt: skip
                committer.add(computed)
                del computed  # not held while the next one is computed
                yield from committer.finished()
            yield from committer.close()


class _Recorded:
    """Records the rows of a block in the output before they are tokenized."""

    def __init__(self, log: AttemptLog, watch: Watch) -> None:
        self._log = log
        self._watch = watch

    def begin(self, key: str, places: Places) -> None:
        if key.startswith("block-") and places:
            self._log.begin(key.removeprefix("block-"), places)
        self._watch.begin(key, places)

    def end(self, key: str) -> None:
        self._watch.end(key)


def _read_saved(
    output: Output, run: Run, task: Task, engine: Engine, works: Mapping[str, ShardWork]
) -> Saved:
    """The rows of the pieces that this engine may continue: those of its own precision."""
    schema = held_schema(run, task).append(ROW_FIELD)
    saved = {}
    for shard, work in works.items():
        fitting = (piece for piece in work.pieces if piece.precision == engine.precision)
        tables = ((piece, _read(output, run, piece, schema)) for piece in fitting)
        saved[shard] = [(piece, table) for piece, table in tables if table is not None]
    return saved


def _read(output: Output, run: Run, piece: Piece, schema: pa.Schema) -> pa.Table | None:
    if piece.name.startswith(OPEN):
        return read_piece_table(output, run, piece, schema)
    try:
        table = read_good_rows(output, run, piece)
    except (StorageError, pa.ArrowException, OSError) as error:
        logger.warning("%s is not used: %s", piece.name, error)
        return None
    return table if table.schema == schema else None


def _fates(work: ShardWork, saved: Saved) -> Int8Array:
    fates = np.zeros(work.shard.rows, dtype=np.int8)
    if work.held is not None:
        fates[work.held] = Fate.HELD.value
    fates[list(work.refused)] = Fate.REFUSED.value
    for piece, _ in saved[work.shard.id]:
        fates[piece.rows] = Fate.SAVED.value
    return fates
