"""What a side takes: tokens, time, money and bytes, of the sample and of the whole corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.display import Display
from jobs.rehearse.compute import Computed
from jobs.rehearse.vectors import ROW, VectorColumn
from jobs.speed import calibrated
from pipeline.packing import Int64Array
from pipeline.spec import JobSpec
from pipeline.tasks.sparse_columns import VALUES
from workers.rates import Rate, kind_of_work
from workers.settings import Settings

_QUANTILES = (5, 50, 95)


@dataclass(frozen=True, slots=True)
class Costs:
    """Those of one side."""

    texts: int  # of the sample
    corpus_rows: int
    max_length: int
    tokens: int  # of the sample
    lengths: dict[int, int]  # per cent of the texts → at most so many tokens
    longest: int
    truncated: int  # texts
    cut: int | None  # tokens of truncated texts; None: not known
    vectors: int  # of the sample: a text in chunks has several
    corpus_tokens: int  # estimated
    tokens_low: int  # the 95 % interval
    tokens_high: int
    rate: Rate | None
    seconds: float | None  # of the whole corpus
    price: float | None
    vector_bytes: float  # of the vectors of a text, on average
    output_bytes: int  # of the parts of the whole corpus


def costs_of(
    computed: Computed,
    column: VectorColumn,
    corpus_rows: int,
    rate: Rate | None,
    price_per_hour: float | None,
) -> Costs:
    """The costs of a side, estimated from its sample.

    Args:
        computed: the sample.
        column: of the vectors.
        corpus_rows: of the whole corpus.
        rate: how fast this machine computes; None if that is not known.
        price_per_hour: of this machine.
    """
    table, manifest = computed.table, computed.manifest
    lengths, truncated = _per_text(table)
    rows = len(lengths)
    scale = corpus_rows / rows
    margin = 1.96 * float(lengths.std()) / math.sqrt(rows) * corpus_rows * (rows < corpus_rows)
    tokens = round(manifest.tokens * scale)
    seconds = None if rate is None else rate.loading_seconds + tokens / rate.tokens_per_second
    quantiles = np.percentile(lengths, _QUANTILES, method="inverted_cdf").tolist()
    priced = price_per_hour is not None and seconds is not None
    return Costs(
        texts=rows,
        corpus_rows=corpus_rows,
        max_length=computed.run.spec.max_length,
        tokens=manifest.tokens,
        lengths=dict(zip(_QUANTILES, map(int, quantiles), strict=True)),
        longest=int(lengths.max()),
        truncated=truncated,
        cut=manifest.cut if truncated else 0,
        vectors=len(table) - table[column.name].null_count,
        corpus_tokens=tokens,
        tokens_low=max(0, round(tokens - margin)),
        tokens_high=round(tokens + margin),
        rate=rate,
        seconds=seconds,
        price=seconds / 3600 * price_per_hour if priced else None,  # type: ignore[operator]
        vector_bytes=_vector_bytes(table, column) / rows,
        output_bytes=round(manifest.bytes * scale),
    )


def rates_of(
    first: Computed,
    second: Computed,
    devices: Sequence[str],
    settings: Settings,
    display: Display,
) -> tuple[Rate | None, Rate | None]:
    """How fast each side was on the sample, or both by a calibration where one was too short.

    Two measurements of different kinds would compare how they were made. Where both sides are the
    same work for a device, what differs is the weather: both get the mean.
    """
    before, after = first.rate, second.rate
    if before is None or after is None:
        before = _calibrated(first, devices, settings, display)
        after = _calibrated(second, devices, settings, display)
    if before and after and _kind(first) == _kind(second):
        before = after = replace(
            before,
            tokens_per_second=(before.tokens_per_second + after.tokens_per_second) / 2,
            loading_seconds=(before.loading_seconds + after.loading_seconds) / 2,
        )
    return before, after


def _kind(computed: Computed) -> str:
    return kind_of_work(_spec(computed), _spec(computed).precision, _mean_tokens(computed))


def _spec(computed: Computed) -> JobSpec:
    """The spec, in the precision that was computed in."""
    precisions = computed.manifest.precisions
    return computed.run.spec.computed_in(precisions[0]) if precisions else computed.run.spec


def _mean_tokens(computed: Computed) -> float:
    return max(1.0, computed.manifest.tokens / max(1, computed.manifest.rows))


def _calibrated(
    computed: Computed, devices: Sequence[str], settings: Settings, display: Display
) -> Rate | None:
    spec, texts = _spec(computed), [text for text in computed.texts if text]

    def rows(limit: int) -> pa.RecordBatch:
        column = pa.array(texts[:limit], pa.large_string())
        return pa.record_batch({spec.text_column: column})

    mean = _mean_tokens(computed)
    return calibrated(spec, computed.card, mean, devices, settings, rows, display)[0]


def _per_text(table: pa.Table) -> tuple[Int64Array, int]:
    """The tokens of each text, and how many texts are truncated."""
    by_row = table.group_by(ROW).aggregate([("n_tokens", "sum"), ("truncated", "max")])
    lengths = by_row["n_tokens_sum"].fill_null(0).to_numpy().astype(np.int64)
    return lengths, int(pc.sum(by_row["truncated_max"]).as_py() or 0)


def _vector_bytes(table: pa.Table, column: VectorColumn) -> float:
    """Bytes of all vectors."""
    if column.rule == "sparse dot":
        entries = pc.sum(pc.list_value_length(table[VALUES])).as_py() or 0
        return float(column.bytes * entries)
    return column.bytes * float(len(table) - table[column.name].null_count)
