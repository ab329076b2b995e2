"""What the rows of the shards without a part would cost: one pass over their texts.

Each row is hashed, and looked up in the parts that are there and among the rows before it, as the
run will do. Texts are tokenized with the run's own task: all of them, or a sample where there are
too many. Memory does not depend on the number of rows (see `pipeline.planning.match_rows`).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.planning.match_rows import Found, UInt64Array
from pipeline.shards import Shard
from pipeline.tasks import Task
from pipeline.tokenize.tokens import Tokens

BoolArray = npt.NDArray[np.bool_]

# Texts are all tokenized up to this number of rows; of more, a sample of about so many rows.
ALL_TOKENIZED_ROWS = 500_000
SAMPLED_ROWS = 100_000
# Consecutive rows that are in the sample together: the clusters of its interval.
_CLUSTER_ROWS = 1024
_SEED = 20_240_229
_NORMAL_95 = 1.96
# Shards that hold rows for a measurement.
_SAMPLED_SHARDS = 8
# Half of a key, and what has none: a null text.
_NO_KEY = 0


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Tokenized rows, R of them."""

    first: int  # number in the group of the first row
    n_tokens: npt.NDArray[np.int32]  # [R]
    truncated: BoolArray  # [R]
    failed: BoolArray  # [R]
    cut: int  # tokens
    chunks: int  # of all rows; 0: they are in none


@dataclass(slots=True)
class Counts:
    """Counts of rows and tokens; those of a sample are scaled by `Counter.totals`."""

    rows: int = 0
    reused: int = 0
    repeated: int = 0  # rows with the key of an earlier one, failed ones among them
    null: int = 0
    blank: int = 0
    # Of the tokenized rows:
    tokenized: int = 0
    tokens: int = 0
    truncated: int = 0
    cut: int = 0  # tokens
    chunks: int = 0
    failed: int = 0  # null ones left out
    failed_repeated: int = 0
    candidates: int = 0  # neither reused nor repeated nor null
    tokens_computed: int = 0
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(32, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Totals:
    """The rows of the shards without a part."""

    rows: int
    computed: int
    reused: int
    deduplicated: int
    failed: int  # they cannot be tokenized
    tokens: int  # of all rows
    tokens_error: int  # half of the 95 % interval of `tokens`; 0: they are exact
    tokens_computed: int
    truncated: int
    cut: int  # tokens of truncated rows
    chunks: int  # of all rows; 0: they are in none
    blank: int
    lengths: tuple[tuple[int, int], ...]  # at most so many tokens, computed rows; ascending
    exact: bool


class Repeats:
    """Keys of the last rows that are computed, as `pipeline.known_rows.Duplicates` holds them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[int, None] = OrderedDict()

    def among(self, keys: UInt64Array) -> BoolArray:
        """Which keys are those of an earlier row that is still held, [R]."""
        repeated = np.zeros(len(keys), dtype=np.bool_)
        for row, key in enumerate(keys.tolist()):
            if key in self._held:
                repeated[row] = True
                continue
            self._held[key] = None
            if len(self._held) > self._limit:
                self._held.popitem(last=False)
        return repeated


class Counter:
    """Counts rows as they are read, and again when it is known which are in earlier parts.

    Args:
        task: of the run.
        rows: how many there will be.
        repeats: finds duplicates.
        exact: tokenize all of them, however many there are.
        on_rows: called with the number of rows that were just read, and their tokens.
    """

    def __init__(
        self,
        task: Task,
        rows: int,
        repeats: Repeats,
        *,
        exact: bool,
        on_rows: Callable[[int, int], None],
    ) -> None:
        self._task = task
        self._share = 1.0 if exact or rows <= ALL_TOKENIZED_ROWS else SAMPLED_ROWS / rows
        self._random = random.Random(_SEED)
        self._repeats = repeats
        self._on_rows = on_rows
        self._counts = Counts()
        self._group: list[_Cluster] = []
        self._sums: list[tuple[int, int]] = []  # rows and tokens of each cluster
        self._shards: list[tuple[float, str, Shard, BoolArray]] = []  # a heap

    def read(self, first: int, rows: pa.RecordBatch) -> None:
        """Rows of the group at hand; `first` is the number of the first."""
        self._counts.blank += int(blank_rows(rows).sum())
        for start in range(0, rows.num_rows, _CLUSTER_ROWS):
            some = rows.slice(start, _CLUSTER_ROWS)
            tokens = 0
            if self._random.random() < self._share:
                tokens = self._tokenize(first + start, some)
            self._on_rows(some.num_rows, tokens)

    def _tokenize(self, first: int, rows: pa.RecordBatch) -> int:
        tokens = self._task.tokenize(rows)
        failed = np.zeros(tokens.rows, dtype=np.bool_)
        failed[list(tokens.errors)] = True
        cut = 0 if tokens.cut is None else int(tokens.cut.sum(dtype=np.int64))
        chunks = chunk_count(tokens, failed)
        self._group.append(_Cluster(first, tokens.n_tokens, tokens.truncated, failed, cut, chunks))
        return int(tokens.n_tokens.sum())

    def found(self, found: Found, reused: BoolArray) -> None:
        """The group was read: `reused` [R] marks the rows that are copied from earlier parts."""
        counts = self._counts
        null = found.keys == _NO_KEY
        repeated = np.zeros(len(reused), dtype=np.bool_)
        new = np.flatnonzero(~reused & ~null)
        repeated[new] = self._repeats.among(found.keys[new])
        counts.rows += len(reused)
        counts.reused += int(reused.sum())
        counts.repeated += int(repeated.sum())
        counts.null += int(null.sum())
        candidate = ~reused & ~repeated & ~null
        for cluster in self._group:
            self._add(cluster, candidate, repeated, null)
        self._group.clear()
        self._keep_shards(found, candidate)

    def _add(
        self, cluster: _Cluster, candidate: BoolArray, repeated: BoolArray, null: BoolArray
    ) -> None:
        counts, size = self._counts, len(cluster.n_tokens)
        at = slice(cluster.first, cluster.first + size)
        failed = cluster.failed & ~null[at]
        lengths = cluster.n_tokens[candidate[at] & ~failed]
        tokens = int(cluster.n_tokens.sum(dtype=np.int64))
        counts.tokenized += size
        counts.tokens += tokens
        counts.truncated += int(cluster.truncated.sum())
        counts.cut += cluster.cut
        counts.chunks += cluster.chunks
        counts.failed += int(failed.sum())
        counts.failed_repeated += int((failed & repeated[at]).sum())
        counts.candidates += int(candidate[at].sum())
        counts.tokens_computed += int(lengths.sum(dtype=np.int64))
        powers = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
        counts.lengths += np.bincount(powers, minlength=len(counts.lengths))
        self._sums.append((size, tokens))

    def _keep_shards(self, found: Found, candidate: BoolArray) -> None:
        """Some shards at random, those with more rows to compute more likely."""
        for shard, at in found.of_shards():
            if rows := int(candidate[at].sum()):
                priority = self._random.random() ** (1 / rows)
                heapq.heappush(self._shards, (priority, shard.id, shard, candidate[at]))
                if len(self._shards) > _SAMPLED_SHARDS:
                    heapq.heappop(self._shards)

    @property
    def sample(self) -> tuple[tuple[Shard, BoolArray], ...]:
        """A few shards, and which of their rows would be computed."""
        return tuple((shard, rows) for _, _, shard, rows in self._shards)

    def totals(self, max_length: int) -> Totals:
        """The counts of all rows; what only a sample knows is scaled up.

        Args:
            max_length: of a sequence, for the histogram.
        """
        counts = self._counts
        scale = counts.rows / counts.tokenized if counts.tokenized else 0.0
        failed = counts.null + round(counts.failed * scale)
        deduplicated = counts.repeated - round(counts.failed_repeated * scale)
        candidates = counts.rows - counts.reused - counts.repeated - counts.null
        of_candidates = candidates / counts.candidates if counts.candidates else 0.0
        return Totals(
            rows=counts.rows,
            computed=counts.rows - counts.reused - deduplicated - failed,
            reused=counts.reused,
            deduplicated=deduplicated,
            failed=failed,
            tokens=round(counts.tokens * scale),
            tokens_error=_half_interval(self._sums, counts.rows),
            tokens_computed=round(self._tokens_per_candidate() * candidates),
            truncated=round(counts.truncated * scale),
            cut=round(counts.cut * scale),
            chunks=round(counts.chunks * scale),
            blank=counts.blank,
            lengths=_histogram(counts.lengths, of_candidates, max_length),
            exact=counts.tokenized == counts.rows,
        )

    def _tokens_per_candidate(self) -> float:
        """Of a row that would be computed; where none is in the sample, of any row."""
        counts = self._counts
        if counts.candidates:
            return counts.tokens_computed / counts.candidates
        return counts.tokens / counts.tokenized if counts.tokenized else 0.0


def chunk_count(tokens: Tokens, failed: BoolArray) -> int:
    """Rows of a part that hold these: one for each chunk, and for each row that failed."""
    if tokens.chunks is None:
        return 0
    return len(tokens.chunks.row_of) + int(failed.sum())


def blank_rows(rows: pa.RecordBatch) -> BoolArray:
    """Which rows have a text that is null or nothing but ASCII white space, or an empty list."""
    blank = np.zeros(rows.num_rows, dtype=np.bool_)
    for column in rows.columns:
        if pa.types.is_nested(column.type):
            filled = pc.greater(pc.list_value_length(column), 0)
        else:
            filled = pc.match_substring_regex(column.cast(pa.large_binary()), r"\S")
        blank |= ~pc.fill_null(filled, False).to_numpy(zero_copy_only=False)
    return blank


def _half_interval(clusters: Sequence[tuple[int, int]], rows: int) -> int:
    """Half of the 95 % interval of the tokens of all rows, by a ratio estimate from clusters.

    Args:
        clusters: rows and tokens of each cluster of the sample.
        rows: of all clusters, those that are not in the sample too.
    """
    sampled = sum(size for size, _ in clusters)
    if sampled == rows or len(clusters) < 2:
        return 0
    ratio = sum(tokens for _, tokens in clusters) / sampled
    squares = sum((tokens - ratio * size) ** 2 for size, tokens in clusters)
    number = len(clusters)
    deviation = math.sqrt(number / (number - 1) * squares * (1 - sampled / rows)) / sampled
    return round(_NORMAL_95 * deviation * rows)


def _histogram(powers: Iterable[int], scale: float, max_length: int) -> tuple[tuple[int, int], ...]:
    """Upper bounds of lengths, powers of two up to max_length or the longest row, and rows."""
    rows = {power: round(count * scale) for power, count in enumerate(powers) if count}
    if not rows:
        return ()
    top = max(rows)
    # Rows of several sequences may have more tokens than a sequence.
    last = max_length if 2 ** (top - 1) < max_length else 2**top
    return tuple((min(2**power, last), rows.get(power, 0)) for power in range(min(rows), top + 1))
