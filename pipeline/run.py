"""The main path: shards in, committed parts out. `run_shards` names every stage, in order.

Stages run concurrently, connected by bounded queues: one thread reads and tokenizes ahead of the
device, the caller's thread feeds the device, one thread builds and commits parts. Memory is bounded
by the size of blocks and shards, never by the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.blocks import read_blocks
from pipeline.commit import Committer
from pipeline.encode import encode
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.prefetch import prefetch
from pipeline.spec import OnBatch, Shard, ShardResult
from pipeline.tasks import make_task

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
) -> Iterator[ShardResult]:
    """Compute shards and commit each part as soon as its last row is computed.

    A shard that cannot be read or written becomes a result with `error`; the others continue.
    Once `should_stop` returns true, the work ends between two batches: committed parts are kept,
    the remaining shards yield nothing.

    Args:
        run: the run the shards belong to.
        shards: in input order; consecutive shards of one file share one reader.
        engine: the resident encoder.
        output: where the parts go.
        attempt: the id of this attempt, stored in every part that it commits.
        should_stop: called before each batch.
        on_batch: called with the rows and tokens of each computed batch.

    Raises:
        EncodeError: the device failed in a way that a smaller batch does not fix.
    """
    task = make_task(run.spec, engine.card, load_tokenizer(engine.card))
    budget = run.spec.token_budget or engine.token_budget
    threads = _GPU_TOKENIZING_THREADS if engine.device.startswith("cuda") else 1
    tokenized = read_blocks(run, shards, task, engine.output_size, threads=threads)
    with (
        Committer(output, run, engine, task, attempt) as committer,
        prefetch(tokenized, _BLOCKS_AHEAD) as ahead,
    ):
        for block, outputs in encode(engine, ahead, task, budget, should_stop, on_batch):
            committer.add(block, outputs)
            yield from committer.finished()
        yield from committer.close()
