"""Throughput over time, stages and stalls, from when the parts of a run were committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from jobs.report.parts import Parts, json_of
from pipeline.output.part_file import PartInfo
from pipeline.stage_times import STAGES

Floats = npt.NDArray[np.float64]

_BINS = 80
# Parts that are committed together were computed together.
_TOGETHER_SECONDS = 0.25
# A wait that is worth a line: seconds, share of the run, and how many times slower than usual.
_STALL_SECONDS, _STALL_SHARE, _STALL_FACTOR = 5.0, 0.02, 4.0
_STALLS = 10


def timeline(parts: Parts, started: float) -> dict[str, Any] | None:
    """When the rows of a run were computed; None where none were, or nothing says when.

    Each process commits parts one after the other: what a part holds was computed since the last
    commit of its attempt; for the first one, in the seconds that the part says.

    Args:
        parts: of the run.
        started: when it was planned, in seconds since the epoch.
    """
    spans = _spans(parts)
    if not spans["rows"].sum():
        return None
    begin, end = spans["begin"].to_numpy(), spans["end"].to_numpy()
    tokens, rows = (spans[name].to_numpy().astype(np.float64) for name in ("tokens", "rows"))
    first, last = float(begin.min()), float(end.max())
    seconds = max(last - first, 1e-3)
    bins = int(min(_BINS, max(1, len(np.unique(end)))))
    edges = np.linspace(first, last, bins + 1)
    return {
        "started": started,
        "first_batch": first,
        "last_commit": last,
        "seconds": round(seconds, 3),
        "device_seconds": round(_worked(spans), 3),
        "rows": int(rows.sum()),
        "tokens": int(tokens.sum()),
        "bins": [
            {"at": round(at, 3), "tokens_per_second": round(t, 3), "rows_per_second": round(r, 3)}
            for at, t, r in zip(
                (edges[:-1] - started).tolist(),
                _rates(begin, end, tokens, edges),
                _rates(begin, end, rows, edges),
                strict=True,
            )
        ],
        "stalls": _stalls(spans, parts.infos, started, seconds),
        "devices": _devices(spans),
        "stages": _stages(parts.infos),
    }


def _spans(parts: Parts) -> pl.DataFrame:
    """One row for the parts that a process committed together: begin, end, rows and tokens."""
    computed = pl.col("rows") - pl.col("reused") - pl.col("deduplicated") - pl.col("failed")
    laps = {name: max(_of_part(info).values(), default=0) for name, info in parts.infos.items()}
    table = (
        parts.table.filter(pl.col("own") & pl.col("read"))
        .sort("attempt", "at")
        .with_columns(
            lap=pl.col("part").replace_strict(laps, default=0.0, return_dtype=pl.Float64),
            computed=computed.clip(0),
            work=(pl.col("tokens") * computed.clip(0) / pl.col("rows").clip(1)).fill_null(0),
            again=(pl.col("at").diff().over("attempt") > _TOGETHER_SECONDS).fill_null(False),
        )
    )
    table = table.with_columns(turn=pl.col("again").cum_sum().over("attempt"))
    spans = table.group_by("attempt", "turn", maintain_order=True).agg(
        pl.col("part"),
        pl.col("device", "precision").first(),
        pl.col("at").max().alias("end"),
        pl.max_horizontal("seconds", "lap").max().alias("took"),
        pl.col("computed").sum().alias("rows"),
        pl.col("work").sum().alias("tokens"),
    )
    before = pl.col("end").shift().over("attempt")
    begun = pl.col("end") - pl.col("took").clip(0.001)
    return spans.with_columns(begin=pl.coalesce(before, begun)).with_columns(
        begin=pl.min_horizontal("begin", pl.col("end") - 0.001)
    )


def _rates(begin: Floats, end: Floats, amounts: Floats, edges: Floats) -> list[float]:
    """Amounts per second between the edges; each amount is spread over its span."""
    done = [float((amounts * np.clip((at - begin) / (end - begin), 0, 1)).sum()) for at in edges]
    rates = np.diff(done) / np.maximum(np.diff(edges), 1e-9)
    return [float(rate) for rate in rates]


def _worked(spans: pl.DataFrame) -> float:
    """Seconds in which a process of a device was at work, summed over the devices."""
    attempts = spans.group_by("attempt").agg(pl.col("end").max() - pl.col("begin").min())
    return float(attempts["end"].sum())


def _devices(spans: pl.DataFrame) -> list[dict[str, Any]]:
    found = (
        spans.with_columns(took=pl.col("end") - pl.col("begin"))
        .group_by("device", "precision")
        .agg(
            pl.col("attempt").n_unique().alias("attempts"),
            pl.col("part").list.len().sum().alias("parts"),
            pl.col("rows", "tokens", "took").sum(),
        )
        .sort("tokens", descending=True)
    )
    return [
        {
            "device": row["device"],
            "precision": row["precision"],
            "attempts": row["attempts"],
            "parts": row["parts"],
            "rows": row["rows"],
            "tokens": round(row["tokens"]),
            "seconds": round(row["took"], 3),
        }
        for row in found.head(12).iter_rows(named=True)
    ]


def _stages(infos: Mapping[str, PartInfo]) -> dict[str, Any] | None:
    """Stage → seconds, summed over the parts that say so; None where none does."""
    said = [stages for info in infos.values() if (stages := _of_part(info))]
    if not said:
        return None
    seconds = {name: round(sum(each[name] for each in said), 3) for name in STAGES}
    return {"parts": len(said), "seconds": seconds}


def _of_part(info: PartInfo) -> dict[str, float]:
    stages = json_of(info, "stages")
    if not stages:
        return {}
    values = {name: stages.get(name, 0) for name in STAGES}
    return {n: float(v) if isinstance(v, int | float) else 0.0 for n, v in values.items()}


def _stalls(
    spans: pl.DataFrame, infos: Mapping[str, PartInfo], started: float, seconds: float
) -> list[dict[str, Any]]:
    """The longest times in which nothing, or far less than usual, was computed."""
    least = max(_STALL_SECONDS, _STALL_SHARE * seconds)
    found = [*_gaps(spans, least), *_slow(spans, infos, least)]
    longest = sorted(found, key=lambda stall: -stall["seconds"])[:_STALLS]
    return sorted(
        ({**stall, "at": round(stall["at"] - started, 3)} for stall in longest),
        key=lambda stall: stall["at"],
    )


def _gaps(spans: pl.DataFrame, least: float) -> list[dict[str, Any]]:
    """Times between the first batch and the last commit in which no process worked."""
    gaps: list[dict[str, Any]] = []
    until = float("inf")
    for begin, end in spans.sort("begin").select("begin", "end").iter_rows():
        if begin - until > least:
            gaps.append(
                {"at": until, "seconds": round(begin - until, 3), "why": "no process worked"}
            )
        until = end if until == float("inf") else max(until, end)
    return gaps


def _slow(spans: pl.DataFrame, infos: Mapping[str, PartInfo], least: float) -> list[dict[str, Any]]:
    """Spans of a process that took far longer than its others for as many tokens."""
    spans = spans.filter(pl.col("tokens") > 0)  # the others copied rows: nothing says how fast
    took = pl.col("end") - pl.col("begin")
    usual = (pl.col("tokens") / took).median().over("device", "precision")
    waited = took - pl.col("tokens") / usual.clip(1e-9)
    slow = spans.with_columns(took=took, waited=waited).filter(
        (pl.col("waited") > least) & (pl.col("took") > _STALL_FACTOR * (took - waited).clip(1e-9))
    )
    return [
        {
            "at": row["begin"],
            "seconds": round(row["waited"], 3),
            "why": _reason([infos[name] for name in row["part"] if name in infos]),
        }
        for row in slow.sort("waited", descending=True).head(_STALLS).iter_rows(named=True)
    ]


def _reason(infos: Sequence[PartInfo]) -> str:
    stages = [stages for info in infos if (stages := _of_part(info))]
    total = {name: sum(each[name] for each in stages) for name in STAGES}
    if not stages or not sum(total.values()):
        return "a process took far longer than usual for these rows"
    stage = max(total, key=lambda name: total[name])
    return f"a process took far longer than usual, most of it in the stage {stage}"
